import { IncomingMessage } from "node:http";
import { Socket } from "node:net";

import { PlatformError } from "@roost/contract";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { transferStallMs } from "../guest/file-transfer.ts";
import type { BuildFiles } from "../templates/build-files.ts";
import { putArchive } from "./archive-upload.ts";
import { TransferMeter } from "./transfer-meter.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("a transfer in which nothing moves is given up, and its reader is told; without a reader nothing happens", async () => {
  const count = vi.fn();
  const meter = new TransferMeter(count);
  meter.write("abc");
  await vi.advanceTimersByTimeAsync(transferStallMs - 1);
  expect(meter.destroyed).toBe(false);
  meter.write("d");
  await vi.advanceTimersByTimeAsync(transferStallMs - 1);
  expect(meter.destroyed).toBe(false);
  await vi.advanceTimersByTimeAsync(2); // nobody listens: Vitest fails for an error that nobody handles
  expect(meter.errored?.message).toBe("the transfer stalled");
  expect(count.mock.calls).toEqual([[3], [1]]);
  const late = async () => {
    for await (const _ of meter) expect.unreachable();
  };
  await expect(late()).rejects.toThrow("the transfer stalled");
});

test("an upload that is refused before it is read leaves nothing that waits for it", async () => {
  const refusal = new PlatformError("request_too_large", "no room");
  const files = { put: async () => Promise.reject(refusal) } as unknown as BuildFiles;
  const request = new IncomingMessage(new Socket());
  const upload = { templateId: "t", hash: "0", length: 4, request, signal: new AbortController().signal };
  await expect(putArchive(files, upload, () => undefined)).rejects.toBe(refusal);
  expect(vi.getTimerCount()).toBe(0);
});
