import { expect, test } from "vitest";

import { parseExitRecord } from "./exit-record.ts";

test.each([
  ["0\n", 0, null],
  ["1\n", 1, null],
  ["137\n", null, "SIGKILL"],
  ["134\n", null, "SIGABRT"],
  ["139\n", null, "SIGSEGV"],
  ["143\n", null, "SIGTERM"],
  ["255\n", 255, null],
])("%j is exit code %s, signal %s", (text, exitCode, signal) => {
  expect(parseExitRecord(text)).toEqual({ exitCode, signal });
});

test.each(["", "\n", "0", "1234\n", "-1\n", "999\n", " 0\n", "0\n0\n", "\u0000", "NaN\n"])("%j is no exit record", (text) => {
  expect(parseExitRecord(text)).toEqual({ exitCode: null, signal: null });
});
