import { buildLogLineBytesMax } from "@roost/contract";
import { expect, test } from "vitest";

import { OutputLines } from "./output-lines.ts";

const bytes = (text: string) => Buffer.from(text);

test("lines of both streams are put together piece by piece", () => {
  const lines = new OutputLines();
  expect(lines.add("stdout", bytes("one\ntw"))).toEqual(["one"]);
  expect(lines.add("stderr", bytes("err"))).toEqual([]);
  expect(lines.add("stdout", bytes("o\n\nthree"))).toEqual(["two"]);
  expect(lines.rest()).toEqual(["three", "err"]);
  expect(lines.tail).toEqual(["one", "two", "three", "err"]);
});

test("a character in two pieces stays whole, and so does an end of line", () => {
  const lines = new OutputLines();
  const euro = bytes("€");
  expect(lines.add("stdout", euro.subarray(0, 1))).toEqual([]);
  expect(lines.add("stdout", Buffer.concat([euro.subarray(1), bytes("\r")]))).toEqual([]);
  expect(lines.add("stdout", bytes("\nnext\n"))).toEqual(["€", "next"]);
});

test("a progress bar is a line for each of its states", () => {
  const lines = new OutputLines();
  expect(lines.add("stdout", bytes("10%\r20%\r100%\n"))).toEqual(["10%", "20%", "100%"]);
});

test("nothing a terminal would obey, and no line without end", () => {
  const lines = new OutputLines();
  expect(lines.add("stdout", bytes("\u001B[31mred\u001B[0m \u001B]0;title\u0007a\tb\u0000\u0008\n"))).toEqual(["red a\tb"]);
  const long = lines.add("stdout", bytes("x".repeat(3 * buildLogLineBytesMax)));
  expect(long.length).toBe(1);
  expect(lines.rest()).toEqual([]);
});

test("the tail is the last lines", () => {
  const lines = new OutputLines();
  lines.add("stdout", bytes(Array.from({ length: 100 }, (_, index) => `${index}\n`).join("")));
  expect(lines.tail.length).toBe(20);
  expect(lines.tail.at(-1)).toBe("99");
  lines.add("stderr", bytes(`${"y".repeat(buildLogLineBytesMax)}\n`));
  expect(lines.tail.at(-1), "of a long one the start").toBe("y".repeat(1_000));
});
