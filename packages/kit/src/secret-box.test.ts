import { expect, test } from "vitest";

import { SecretBox } from "./secret-box.ts";

const key = "ab".repeat(32);
const refused = /unable to authenticate|no sealed secret/;

test("what is sealed is opened by the same key, purpose and context, and by nothing else", () => {
  const sealed = new SecretBox(key, "tests").seal("a secret", "row 1");
  expect(new SecretBox(key, "tests").open(sealed, "row 1")).toBe("a secret");
  expect(sealed.toString("latin1")).not.toContain("secret");
  expect(new SecretBox(key, "tests").seal("a secret", "row 1")).not.toEqual(sealed);
  expect(() => new SecretBox("cd".repeat(32), "tests").open(sealed, "row 1")).toThrow(refused);
  expect(() => new SecretBox(key, "others").open(sealed, "row 1")).toThrow(refused);
  expect(() => new SecretBox(key, "tests").open(sealed, "row 2")).toThrow(refused);
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = Buffer.from(sealed);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(() => new SecretBox(key, "tests").open(changed, "row 1")).toThrow(refused);
  }
  for (const length of [0, 1, 28, sealed.length - 1])
    expect(() => new SecretBox(key, "tests").open(sealed.subarray(0, length), "row 1")).toThrow(refused);
});
