import fc from "fast-check";
import { expect, test } from "vitest";

import { parseMetadataFilter } from "./schemas.ts";

/** As the JS SDK writes it, and the HTTP client once more; answers what a server finds in the query. */
function asSent(metadata: Readonly<Record<string, string>>): string {
  const encoded = Object.fromEntries(Object.entries(metadata).map(([key, value]) => [encodeURIComponent(key), encodeURIComponent(value)]));
  const onTheWire = `?metadata=${encodeURIComponent(new URLSearchParams(encoded).toString())}`;
  return new URLSearchParams(onTheWire).get("metadata") ?? "";
}

test.each([
  ["?metadata=a%3Db%252520c", { a: "b c" }],
  ["?metadata=user%3Dabc%26app%3Dprod", { user: "abc", app: "prod" }],
  ["?metadata=a%3Db%25252Bc", { a: "b+c" }],
  ["?metadata=a%25253Db%3D1%252526", { "a=b": "1&" }],
  ["?metadata=user=abc", { user: "abc" }],
  ["?metadata=user", { user: "" }],
  ["?metadata=", {}],
])("%s", (query, metadata) => {
  expect(parseMetadataFilter(new URLSearchParams(query).get("metadata") ?? "")).toEqual(metadata);
});

test.each(["%", "a=%E0%A4%A", "=b", "a=%00", "a=%2500", Array.from({ length: 33 }, (_, index) => `k${index}=v`).join("&")])(
  "%j is refused",
  (text) => {
    expect(parseMetadataFilter(text)).toBeUndefined();
  },
);

test("what the SDK encodes is what is found", () => {
  // what can be stored: no NUL; `unit: "grapheme"` makes no halves of characters
  const text = fc.string({ unit: "grapheme", maxLength: 8 }).filter((value) => !value.includes("\0"));
  const key = text.filter((value) => value !== "" && value !== "__proto__");
  fc.assert(
    fc.property(fc.dictionary(key, text, { maxKeys: 5 }), (metadata) => {
      expect({ ...parseMetadataFilter(asSent(metadata)) }).toEqual({ ...metadata });
    }),
  );
});
