import "./fast-base64.ts";
import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

test("every length there and back, in the ways protobuf asks for", () => {
  const random = new SeededRandom();
  for (let length = 0; length < 200; length += 1) {
    const bytes = random.bytes(length);
    const text = Buffer.from(bytes).toString("base64");
    expect(base64Encode(bytes), `SEED=${random.seed}`).toBe(text);
    expect(base64Encode(bytes, "std_raw")).toBe(text.replace(/=+$/, ""));
    expect(base64Encode(bytes, "url")).toBe(Buffer.from(bytes).toString("base64url"));
    for (const form of [text, text.replace(/=+$/, ""), Buffer.from(bytes).toString("base64url")])
      expect(Buffer.from(base64Decode(form)).equals(bytes)).toBe(true);
  }
});

test("a view into a larger buffer is encoded and filled alone", () => {
  const buffer = new Uint8Array([1, 2, 3, 4, 5, 6]);
  expect(base64Encode(buffer.subarray(1, 4))).toBe(Buffer.from([2, 3, 4]).toString("base64"));
});

test.each(["%%%%", "AA*A", "A", "AAAAA", "ÄÄÄÄ", "AA\0A"])("%j is refused as before", (text) => {
  expect(() => base64Decode(text)).toThrow("invalid base64");
});
