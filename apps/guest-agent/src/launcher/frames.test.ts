import { expect, test } from "vitest";

import { decodeRecord, encodeBecome, encodeKill, encodeStart } from "./frames.ts";

const start = {
  id: 7,
  argv: ["sh", "-c", "ü"],
  envs: { A: "1", B: "" },
  cwd: "/x",
  cwdOptional: false,
  uid: 5,
  gid: 6,
  groups: [6, 9],
  stdin: true,
  terminal: undefined,
};

test("a start frame has its length, its numbers and its strings", () => {
  const bytes = encodeStart(start);
  expect(bytes.readUInt32LE(0)).toBe(bytes.length - 4);
  const words = Array.from({ length: 12 }, (_unused, index) => bytes.readUInt32LE(8 + index * 4));
  expect(words).toEqual([7, 1, 5, 6, 2, 0, 0, 0, 3, 2, 6, 9]);
  expect(bytes.subarray(8 + 48).toString()).toBe("/x\0sh\0-c\0ü\0A=1\0B=\0");
});

test("flags tell stdin, terminal and an optional folder apart", () => {
  const flags = (change: object) => encodeStart({ ...start, stdin: false, ...change }).readUInt32LE(12);
  expect([
    flags({}),
    flags({ stdin: true }),
    flags({ terminal: { masterFd: 3, cols: 80, rows: 24 } }),
    flags({ cwdOptional: true }),
  ]).toEqual([0, 1, 2, 4]);
});

test("the largest ids survive", () => {
  expect(encodeStart({ ...start, uid: 2 ** 32 - 2 }).readUInt32LE(16)).toBe(2 ** 32 - 2);
});

test.each([
  [0, 0, 0],
  [1_700_000_000_123.5, 1_700_000_000, 123_500_000],
  [4_294_967_296_000, 4_294_967_296, 0],
  [999.9999999, 0, 999_999_999],
])("the clock %d ms is %d s and %d ns", (unixMs, seconds, nanoseconds) => {
  const bytes = encodeBecome({ id: 1, entropy: undefined, unixMs, hostname: undefined, files: [] });
  expect(bytes.readUInt32LE(12)).toBe(1);
  expect(bytes.readUInt32LE(16) + bytes.readUInt32LE(20) * 2 ** 32).toBe(seconds);
  expect(bytes.readUInt32LE(24)).toBe(nanoseconds);
});

test("a become frame has entropy, host name and files, and says that there is no clock", () => {
  const bytes = encodeBecome({
    id: 9,
    entropy: Uint8Array.from([1, 2, 3]),
    unixMs: undefined,
    hostname: "sb",
    files: [
      { path: "/a", mode: 0o444, content: "x\n", how: "in place" },
      { path: "/b", mode: 0o644, content: "y", how: "existing" },
      { path: "/c", mode: 0o600, content: undefined, how: "replace" },
    ],
  });
  expect(Array.from({ length: 6 }, (_unused, index) => bytes.readUInt32LE(8 + index * 4))).toEqual([9, 0, 0, 0, 0, 3]);
  expect(bytes.subarray(32).toString("latin1")).toBe("\u0001\u0002\u0003sb\0i444\0/a\0x\n\0ie644\0/b\0y\0r600\0/c\0\0");
});

test("a kill names pid and signal", () => {
  expect([...new Uint32Array(new Uint8Array(encodeKill(12, 15)).buffer)]).toEqual([12, 2, 12, 15]);
});

test("records are read by type; -1 is no descriptor; an unknown type is an error", () => {
  const record = (...words: number[]) => {
    const bytes = Buffer.alloc(24);
    for (const [index, word] of words.entries()) bytes.writeUInt32LE(word >>> 0, index * 4);
    return decodeRecord(bytes, 0);
  };
  expect(record(1, 7, 99, -1, 5, 6)).toEqual({ kind: "started", id: 7, pid: 99, stdin: -1, stdout: 5, stderr: 6 });
  expect(record(2, 7, 3, 2)).toEqual({ kind: "failed", id: 7, stage: "exec", errno: 2 });
  expect(record(3, 99, 256)).toEqual({ kind: "exited", pid: 99, waitStatus: 256 });
  expect(record(5, 8080, 3)).toEqual({ kind: "listener", port: 8080, ipv4: true, ipv6: true });
  expect(record(4, 7, 28, 6)).toEqual({ kind: "done", id: 7, errno: 28, step: 6 });
  expect(() => record(77)).toThrow("unknown record");
});
