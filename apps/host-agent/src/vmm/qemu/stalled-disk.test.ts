import { silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import type { QmpClient } from "./qmp.ts";
import { StalledDisk } from "./stalled-disk.ts";

let status: string;
let asked: string[];
let disk: StalledDisk;

beforeEach(() => {
  vi.useFakeTimers();
  status = "io-error";
  asked = [];
  const execute = async (command: string) => {
    asked.push(command);
    if (command === "cont") status = "running";
    return { running: status === "running", status };
  };
  disk = new StalledDisk(() => ({ execute }) as unknown as QmpClient, silentLogger);
});
afterEach(() => {
  disk.close();
  vi.useRealTimers();
});

const stalled = { event: "BLOCK_IO_ERROR", data: { action: "stop", nospace: true } };

test("a guest that was stopped for its disk goes on in a while", async () => {
  disk.onEvent(stalled);
  disk.onEvent(stalled);
  expect(asked).toEqual([]);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toEqual(["query-status", "cont"]);
  disk.onEvent(stalled);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toEqual(["query-status", "cont", "query-status"]); // it runs
});

test("one that the host agent has stopped stays stopped until it lets it go on", async () => {
  disk.heldByUs = true;
  disk.onEvent(stalled);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).not.toContain("cont");
  disk.heldByUs = false;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked.filter((command) => command === "cont")).toEqual(["cont"]);
});

test("one that is stopped for another reason, or hears of the error itself, is left alone", async () => {
  disk.onEvent({ event: "BLOCK_IO_ERROR", data: { action: "report" } });
  disk.onEvent({ event: "STOP", data: {} });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toEqual([]);
  status = "paused";
  disk.checkSoon();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toEqual(["query-status"]);
});
