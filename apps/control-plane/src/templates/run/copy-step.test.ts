import { Readable } from "node:stream";

import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { entryOf } from "./copy-step.ts";
import { startOf } from "./stream-start.ts";

test.each([
  ["src", "src"],
  ["./src/", "src"],
  ["src/*", "src"],
  ["src/**/*.ts", "src"],
  ["*.txt", "."],
  [".", "."],
  ["", "."],
  ["/abs/path", "abs/path"],
  ["../../etc/passwd", "etc/passwd"],
  ["a/{b,c}/d", "a"],
  ["a b/c", "a b/c"],
])("of an archive, %j means %s", (source, entry) => {
  expect(entryOf(source)).toBe(entry);
});

test("the start of a stream is looked at, and all of it is still there", async () => {
  for (const chunks of [["ab", "cdef", "gh"], ["abcdefgh"], ["a"], []]) {
    const { start, all } = await startOf(Readable.from(chunks.map((chunk) => Buffer.from(chunk))), 3);
    expect(start.toString()).toBe(chunks.join("").slice(0, 3));
    const read: Buffer[] = [];
    for await (const chunk of all as AsyncIterable<Buffer>) read.push(chunk);
    expect(Buffer.concat(read).toString()).toBe(chunks.join(""));
  }
});

test("a source that breaks off breaks what is read of it, and one that is not read to its end is closed", async () => {
  async function* broken() {
    yield Buffer.from("abc");
    throw new Error("the disk is gone");
  }
  const { all } = await startOf(Readable.from(broken()), 2);
  await expect(all.toArray()).rejects.toThrow("the disk is gone");
  const source = Readable.from([Buffer.from("a"), Buffer.from("b"), Buffer.from("c")]);
  const rest = (await startOf(source, 1)).all;
  for await (const chunk of rest) {
    expect(String(chunk)).toBe("a");
    break;
  }
  await poll({ what: "the end of the source", timeoutMs: 30_000 }, () => (source.destroyed ? true : undefined));
  const unread = Readable.from([Buffer.from("a"), Buffer.from("b")]);
  (await startOf(unread, 1)).all.destroy();
  await poll({ what: "the end of the unread source", timeoutMs: 30_000 }, () => (unread.destroyed ? true : undefined));
});
