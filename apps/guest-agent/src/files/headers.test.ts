import { expect, test } from "vitest";

import { chooseCoding } from "./accept-encoding.ts";
import { entityTag, isRangeCurrent, isUnchanged } from "./conditional.ts";
import { contentDisposition } from "./content-disposition.ts";
import { contentTypeOf } from "./content-type.ts";
import { metadataOf } from "./metadata-headers.ts";

test.each([
  [undefined, "identity"],
  ["", "identity"],
  ["gzip", "gzip"],
  ["gzip, deflate", "gzip"],
  ["GZIP;q=0.5", "gzip"],
  ["x-gzip", "gzip"],
  ["deflate, br", "identity"],
  ["*", "identity"],
  ["gzip;q=0", "identity"],
  ["identity;q=1, gzip;q=0.5", "identity"],
  ["identity;q=0.5, gzip;q=1", "gzip"],
  ["identity;q=0, gzip", "gzip"],
  ["identity;q=0", "none"],
  ["*;q=0", "none"],
  ["gzip;q=0, *;q=0", "none"],
  ["*;q=0, identity", "identity"],
  ["identity;q=0, *", "gzip"],
  ["gzip;q=nonsense", "identity"],
])("Accept-Encoding %j means %s", (header, coding) => {
  expect(chooseCoding(header)).toBe(coding);
});

test.each([
  ["report.txt", 'inline; filename="report.txt"'],
  ['a"b\\c.txt', `inline; filename="a_b_c.txt"; filename*=UTF-8''a%22b%5Cc.txt`],
  ["überblick.csv", `inline; filename="_berblick.csv"; filename*=UTF-8''%C3%BCberblick.csv`],
  ["a\r\nx-evil: 1", `inline; filename="a__x-evil: 1"; filename*=UTF-8''a%0D%0Ax-evil%3A%201`],
  ["it's (1)*.txt", `inline; filename="it's (1)*.txt"`],
  ["100%.txt", `inline; filename="100_.txt"; filename*=UTF-8''100%25.txt`],
  ["😀", `inline; filename="_"; filename*=UTF-8''%F0%9F%98%80`],
  ["é'(*)", `inline; filename="_'(*)"; filename*=UTF-8''%C3%A9%27%28%2A%29`],
  ["\ud800x", `inline; filename="_x"; filename*=UTF-8''%EF%BF%BDx`],
])("a file named %j", (name, header) => {
  expect(contentDisposition(name)).toBe(header);
});

test.each([
  ["a.PNG", "image/png"],
  ["x.tar.gz", "application/octet-stream"],
  ["noextension", "application/octet-stream"],
  ["constructor.constructor", "application/octet-stream"],
  ["page.html", "text/html; charset=utf-8"],
])("%s is sent as %s", (name, type) => {
  expect(contentTypeOf(name)).toBe(type);
});

const headers = (...pairs: [string, string][]) => ({ rawHeaders: pairs.flat() });

test("metadata comes from headers, keys in lower case, the first of equal ones", () => {
  expect(
    metadataOf(
      headers(["X-Metadata-Author", "mish"], ["x-metadata-PURPOSE", "upload"], ["X-Access-Token", "abc"], ["X-Metadata-", "no key"]),
    ),
  ).toEqual({
    author: "mish",
    purpose: "upload",
  });
  expect(metadataOf(headers(["X-Metadata-A", "first"], ["x-metadata-a", "second"]))).toEqual({ a: "first" });
  expect(metadataOf(headers(["X-Metadata-Proto", "1"], ["x-metadata-__proto__", "2"]))).toEqual(
    Object.fromEntries([
      ["proto", "1"],
      ["__proto__", "2"],
    ]),
  );
});

test("metadata is kept as UTF-8, whether it came so or as latin1", () => {
  const utf8 = Buffer.from("grün").toString("latin1"); // as Node shows raw bytes
  expect(metadataOf(headers(["x-metadata-a", utf8], ["x-metadata-b", "gr\u{fc}n"]))).toEqual({ a: "grün", b: "grün" });
});

test("metadata has limits: 246 bytes a key, 4096 bytes all", () => {
  expect(metadataOf(headers([`x-metadata-${"k".repeat(246)}`, "v"]))).toEqual({ ["k".repeat(246)]: "v" });
  expect(() => metadataOf(headers([`x-metadata-${"k".repeat(247)}`, "v"]))).toThrow(/at most 246 bytes/);
  expect(metadataOf(headers(["x-metadata-k", "v".repeat(4095)]))).toEqual({ k: "v".repeat(4095) });
  expect(() => metadataOf(headers(["x-metadata-k", "v".repeat(4096)]))).toThrow(/4097 bytes; at most 4096/);
});

test("an entity tag changes with content, time and inode, and with the coding", () => {
  const stats = { ino: 1n, size: 2n, mtimeNs: 3n, ctimeNs: 4n };
  const tags = [
    entityTag(stats, false),
    entityTag(stats, true),
    entityTag({ ...stats, ino: 2n }, false),
    entityTag({ ...stats, size: 3n }, false),
    entityTag({ ...stats, mtimeNs: 4n }, false),
    entityTag({ ...stats, ctimeNs: 5n }, false),
  ];
  expect(new Set(tags).size).toBe(tags.length);
  for (const tag of tags) expect(tag).toMatch(/^"[^"]+"$/);
});

test("conditions: tags before dates, weak tags count for 304 and never for ranges", () => {
  const modified = new Date("2026-05-01T10:00:00.500Z");
  const same = new Date("2026-05-01T10:00:00Z").toUTCString();
  const earlier = new Date("2026-05-01T09:59:59Z").toUTCString();
  expect(isUnchanged({ "if-none-match": '"x", W/"a"' }, ['"a"'], modified)).toBe(true);
  expect(isUnchanged({ "if-none-match": "*" }, ['"a"'], modified)).toBe(true);
  expect(isUnchanged({ "if-none-match": '"b"', "if-modified-since": same }, ['"a"'], modified)).toBe(false);
  expect(isUnchanged({ "if-modified-since": same }, [], modified)).toBe(true);
  expect(isUnchanged({ "if-modified-since": earlier }, [], modified)).toBe(false);
  expect(isUnchanged({ "if-modified-since": "yesterday" }, [], modified)).toBe(false);
  expect(isUnchanged({}, [], modified)).toBe(false);
  expect(isRangeCurrent({}, '"a"', modified)).toBe(true);
  expect(isRangeCurrent({ "if-range": '"a"' }, '"a"', modified)).toBe(true);
  expect(isRangeCurrent({ "if-range": 'W/"a"' }, '"a"', modified)).toBe(false);
  expect(isRangeCurrent({ "if-range": same }, '"a"', modified)).toBe(true);
  expect(isRangeCurrent({ "if-range": earlier }, '"a"', modified)).toBe(false);
  expect(isRangeCurrent({ "if-range": "nonsense" }, '"a"', modified)).toBe(false);
});
