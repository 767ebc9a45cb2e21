import { describe, expect, test } from "vitest";

import { endOf, PortKeys } from "./port-keys.ts";

const keys = new PortKeys("ab".repeat(32));
const port = { sandboxId: "i1", port: 3000, keyNumber: 1 };
const now = new Date("2026-01-01T00:00:00Z");
const end = new Date("2026-01-01T01:00:00Z");

describe("a grant", () => {
  const grant = keys.sign(port, end);

  test("is good until its end, for which it was signed alone", () => {
    expect(keys.check(grant, port, now)).toBe("good");
    expect(keys.check(grant, port, new Date(end.getTime() - 1))).toBe("good");
    expect(keys.check(grant, port, end)).toBe("expired");
    expect(endOf(grant)).toEqual(end);
  });

  test.each([
    ["of another sandbox", { ...port, sandboxId: "i2" }],
    ["of another port", { ...port, port: 300 }],
    ["from before the token was changed", { ...port, keyNumber: 2 }],
    ["of which the pieces are other ones in the same order", { sandboxId: "i1\n3000", port: 1, keyNumber: 1 }],
  ])("%s opens nothing", (_what, other) => {
    expect(keys.check(grant, other, now)).toBe("wrong");
  });

  test("of another installation opens nothing", () => {
    expect(new PortKeys("cd".repeat(32)).check(grant, port, now)).toBe("wrong");
  });

  test("with any character changed is wrong, also where that is its end", () => {
    for (let index = 0; index < grant.length; index += 1) {
      const changed = `${grant.slice(0, index)}${grant[index] === "1" ? "2" : "1"}${grant.slice(index + 1)}`;
      // The last character of base64url has bits that mean nothing, and it is compared as text
      expect(keys.check(changed, port, now), changed).toBe("wrong");
    }
    for (const text of ["", "v1", "v1..", `${grant}=`, ` ${grant}`, grant.repeat(2), "v1.zzzzzzzzzzzz." + "A".repeat(43)]) {
      expect(keys.check(text, port, now), text).toBe("wrong");
    }
  });
});
