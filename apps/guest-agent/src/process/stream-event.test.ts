import { create, fromBinary, fromJsonString, toBinary } from "@bufbuild/protobuf";
import { StartResponseSchema } from "@roost/contract/gen/process/process_pb.js";
import { SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import type { StreamItem } from "./process-streams.ts";
import { encodeItem, toEvent } from "./stream-event.ts";

const random = new SeededRandom();
const items: StreamItem[] = [
  { kind: "start", pid: 4_294_967_295 },
  { kind: "idle" },
  { kind: "end", exit: { exitCode: 0, exited: true, status: "exit status 0", error: undefined } },
  { kind: "end", exit: { exitCode: -1, exited: false, status: "signal: killed", error: "signal: killed" } },
  ...[0, 1, 2, 3, 100, 121, 122, 123, 124, 125, 126, 127, 128, 129, 16_379, 16_380, 16_384, 32_768].flatMap((length) =>
    (["stdout", "stderr", "pty"] as const).map((kind) => ({ kind, bytes: random.bytes(length) })),
  ),
];

describe.each(items)("$kind", (item) => {
  test("is what the library reads, in both codecs", () => {
    const expected = create(StartResponseSchema, { event: toEvent(item) });
    expect(fromBinary(StartResponseSchema, new Uint8Array(encodeItem(item, "proto"))), `SEED=${random.seed}`).toEqual(expected);
    expect(fromJsonString(StartResponseSchema, Buffer.from(encodeItem(item, "json")).toString())).toEqual(expected);
  });

  test("is what the library writes", () => {
    const written = toBinary(StartResponseSchema, create(StartResponseSchema, { event: toEvent(item) }));
    expect(Buffer.from(encodeItem(item, "proto")).equals(written)).toBe(true);
  });
});
