import { expect, test } from "vitest";

import { isBase64 } from "./base64-text.ts";

test.each(["", "AAAA", "AA==", "AAA=", "Zm9v+/==", "YQ"])("%j is base64", (text) => {
  expect(isBase64(text, "base64")).toBe(true);
});

test.each(["A A", "=A", "A===", "====", "é", "A\n", "A\0"])("%j is none", (text) => {
  expect([isBase64(text, "base64"), isBase64(text, "any")]).toEqual([false, false]);
});

test("the alphabet of URLs only where it is asked for", () => {
  expect([isBase64("-_", "base64"), isBase64("-_", "any")]).toEqual([false, true]);
});
