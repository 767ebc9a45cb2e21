import fc from "fast-check";
import { expect, test } from "vitest";

import { decodeEventCursor, encodeEventCursor } from "./event-cursor.ts";

test("a cursor is the position it was made of", () => {
  const position = { timeCreated: new Date(1_767_225_600_123), number: 2 ** 40 };
  expect(decodeEventCursor(encodeEventCursor(position))).toEqual(position);
});

test("anything else is refused, never believed", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        const position = decodeEventCursor(text);
        expect(Number.isNaN(position.timeCreated.getTime())).toBe(false);
        expect(Number.isSafeInteger(position.number)).toBe(true);
      } catch (error) {
        expect(error).toMatchObject({ code: "request_invalid" });
      }
    }),
  );
});
