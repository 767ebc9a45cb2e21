import { newSandboxId } from "@roost/contract";
import fc from "fast-check";
import { expect, test } from "vitest";

import { decodeCursor, encodeCursor } from "./list-cursor.ts";

test("a cursor is the position it was made of", () => {
  const position = { timeCreated: new Date(1_767_225_600_123), id: newSandboxId() };
  expect(decodeCursor(encodeCursor(position))).toEqual(position);
});

test("anything else is refused, never believed", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        const position = decodeCursor(text);
        expect(Number.isNaN(position.timeCreated.getTime())).toBe(false);
      } catch (error) {
        expect(error).toMatchObject({ code: "request_invalid" });
      }
    }),
  );
  expect(() => decodeCursor(Buffer.from("zzzzzzzzzzzzz_i1").toString("base64url"))).toThrow("next_cursor");
});
