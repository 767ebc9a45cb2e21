import fc from "fast-check";
import { expect, test } from "vitest";

import { encodePosition, type PagePosition } from "../page-position.ts";
import { decodeToken, pageOf } from "./paging.ts";

const positions = fc.record({
  time: fc.integer({ min: 0, max: 4e12 }).map((ms) => new Date(ms)),
  key: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,40}$/),
});

test("a token is where it was made", () => {
  fc.assert(
    fc.property(positions, (position) => {
      expect(decodeToken(encodePosition(position))).toEqual(position);
    }),
  );
});

test("what is no token is refused, whatever it is", () => {
  for (const token of [
    "",
    "x",
    Buffer.from("zz").toString("base64url"),
    Buffer.from("1 a b").toString("base64url"),
    Buffer.from("1_a b").toString("base64url"),
  ]) {
    expect(() => decodeToken(token)).toThrow(/nextToken/);
  }
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (token) => {
      try {
        expect(Number.isNaN(decodeToken(token).time.getTime())).toBe(false);
      } catch (error) {
        expect(error).toMatchObject({ code: "request_invalid" });
      }
    }),
  );
});

test("pages follow each other without gap or repetition, newest first, also where times are equal", () => {
  const few = fc.record({ time: fc.integer({ min: 0, max: 3 }).map((ms) => new Date(ms)), key: fc.stringMatching(/^[a-d]{1,3}$/) });
  const lists = fc.uniqueArray(few, { maxLength: 12, selector: ({ time, key }) => `${time.getTime()} ${key}` });
  fc.assert(
    fc.property(lists, fc.integer({ min: 1, max: 5 }), (items, limit) => {
      const seen: PagePosition[] = [];
      let nextToken: string | undefined;
      do {
        const page = pageOf(items, (item) => item, { limit, nextToken });
        expect(page.items.length).toBeLessThanOrEqual(limit);
        seen.push(...page.items);
        nextToken = page.next && encodePosition(page.next);
      } while (nextToken !== undefined);
      expect(seen).toHaveLength(items.length);
      expect(new Set(seen)).toEqual(new Set(items));
      expect(seen.map(({ time }) => -time.getTime())).toEqual(seen.map(({ time }) => -time.getTime()).sort((a, b) => a - b));
    }),
  );
});
