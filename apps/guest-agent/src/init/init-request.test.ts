import { guestInitSchema } from "@roost/contract";
import fc from "fast-check";
import { expect, test } from "vitest";

import { HttpError } from "../http/http-error.ts";
import { isPlainInit, parseInit } from "./init-request.ts";

const usual = {
  accessToken: "t".repeat(40),
  envVars: { A: "1", EMPTY: "" },
  timestamp: "2026-11-23T06:20:00.123Z",
  defaultUser: "user",
  defaultWorkdir: "/home/user",
  sandboxId: "i4f",
  templateId: "base",
  hostname: "i4f",
  machineId: "0123456789abcdef0123456789abcdef",
  entropy: Buffer.alloc(64, 7).toString("base64"),
};

test("what a host sends is recognized without the schema", () => {
  expect(isPlainInit(usual)).toBe(true);
  expect(isPlainInit({})).toBe(true);
  expect(parseInit(usual)).toBe(usual);
});

test("what it does not know is left to the schema, which leaves it out", () => {
  expect(isPlainInit({ ...usual, hyperloopIP: "192.0.2.1" })).toBe(false);
  expect(parseInit({ hostname: "a", hyperloopIP: "192.0.2.1" })).toEqual({ hostname: "a" });
});

/** Valid, nearly valid and absurd values of every field. */
const texts = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.constantFrom("", "\0", "=", "A=B", "user", "UPPER", "a-b", "é", "x".repeat(33), "x".repeat(64), "x".repeat(65), "x".repeat(129)),
  fc.constantFrom("x".repeat(512), "x".repeat(513), "x".repeat(4095), "x".repeat(4096), "f".repeat(32), "F".repeat(32), "f".repeat(31)),
  fc.constantFrom("AAAA", "AAA=", "AA==", "A===", "====", "AAA", "A AA", "AA-_", "A".repeat(4096), "A".repeat(4100)),
  fc.date({ noInvalidDate: true, min: new Date("0001-01-01"), max: new Date("9999-12-31") }).map((date) => date.toISOString()),
  fc.constantFrom("2026-02-30T00:00:00.000Z", "2026-13-01T00:00:00.000Z", "2026-01-01T24:00:00.000Z", "2026-01-01T00:00:60.000Z"),
  fc.constantFrom("2026-02-29T00:00:00.000Z", "2024-02-29T00:00:00.000Z", "2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00.000z"),
);
const anything = fc.oneof(texts, fc.integer(), fc.constant(null), fc.boolean(), fc.constant([]), fc.constant({}));
const envs = fc.oneof(
  fc.dictionary(fc.oneof(fc.string({ maxLength: 5 }), fc.constantFrom("A", "A=B", "", "\0", "__proto__", "x".repeat(300))), anything),
  anything,
);
const bodies = fc.oneof(
  fc.record(Object.fromEntries([...Object.keys(usual), "unknown"].map((name) => [name, name === "envVars" ? envs : anything])), {
    requiredKeys: [],
  }),
  anything,
);

test("whatever is recognized without the schema is valid by it, and the same", () => {
  let recognized = 0;
  fc.assert(
    fc.property(bodies, (body) => {
      if (!isPlainInit(body)) return;
      recognized += 1;
      expect(guestInitSchema.parse(body)).toEqual(body);
    }),
    { numRuns: 3_000 },
  );
  expect(recognized).toBeGreaterThan(20);
});

test("every field alone: the answer is the schema's", () => {
  fc.assert(
    fc.property(fc.constantFrom(...Object.keys(usual)), texts, (name, value) => {
      const parsed = guestInitSchema.safeParse({ [name]: value });
      const answer = parseInit({ [name]: value });
      expect(answer instanceof HttpError ? undefined : answer).toEqual(parsed.data);
    }),
    { numRuns: 2_000 },
  );
});
