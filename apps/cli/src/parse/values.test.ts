import { expect, test } from "vitest";

import { parseDetachKey } from "./detach-key.ts";
import { parseCopyEnd } from "./remote-path.ts";
import { parseEnvironment, parseInteger, parseMemory, parsePair, parseSeconds } from "./values.ts";

test.each([
  ["0", 0],
  ["90", 90],
  ["90s", 90],
  ["5m", 300],
  ["5 min", 300],
  ["2h", 7200],
  ["1d", 86_400],
])("parseSeconds(%j) is %d", (text, seconds) => expect(parseSeconds(text)).toBe(seconds));

test.each(["", "-1", "1.5", "5x", "m", "1 h 5 m"])("parseSeconds refuses %j", (text) => {
  expect(() => parseSeconds(text)).toThrow("Write seconds");
});

test.each([
  ["512", 512],
  ["512m", 512],
  ["2g", 2048],
  ["1.5G", 1536],
  ["1GiB", 1024],
])("parseMemory(%j) is %d MiB", (text, mib) => expect(parseMemory(text)).toBe(mib));

test("parseMemory refuses fractions of a MiB and other units", () => {
  expect(() => parseMemory("0.5m")).toThrow("whole number of MiB");
  expect(() => parseMemory("1t")).toThrow("Write MiB");
});

test("integers and pairs", () => {
  expect(parseInteger("12")).toBe(12);
  expect(() => parseInteger("1e3")).toThrow("whole number");
  expect(parsePair("b=2=3", { a: "1" })).toEqual({ a: "1", b: "2=3" });
  expect(parsePair("empty=")).toEqual({ empty: "" });
  expect(() => parsePair("novalue")).toThrow("KEY=VALUE");
  expect(parseEnvironment({ HOME: "/root" })("HOME")).toEqual({ HOME: "/root" });
});

test.each([
  ["-", { kind: "stream" }],
  ["file", { kind: "local", path: "file" }],
  ["./i3x:y", { kind: "local", path: "./i3x:y" }],
  ["/a/i3x:y", { kind: "local", path: "/a/i3x:y" }],
  ["i3x:y", { kind: "remote", sandbox: "i3x", path: "y" }],
  ["i3x:", { kind: "remote", sandbox: "i3x", path: "." }],
  ["i3x:/a:b", { kind: "remote", sandbox: "i3x", path: "/a:b" }],
  ["C:x", { kind: "local", path: "C:x" }],
])("parseCopyEnd(%j)", (text, end) => expect(parseCopyEnd(text)).toEqual(end));

test("detach keys", () => {
  expect(parseDetachKey("ctrl-]")).toBe(0x1d);
  expect(parseDetachKey("^a")).toBe(1);
  expect(parseDetachKey("none")).toBeUndefined();
  expect(() => parseDetachKey("x")).toThrow("is not a key");
});
