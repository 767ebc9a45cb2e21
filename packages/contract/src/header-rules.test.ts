import { expect, test } from "vitest";

import { findHeaderRule, headerRulesSchema, mapHeaderValues } from "./header-rules.ts";

const rules = headerRulesSchema.parse({
  "API.example.com": { headers: { Authorization: "exact" } },
  "*.example.com": { headers: { Authorization: "short" } },
  "*.b.example.com": { headers: { Authorization: "long", "X-More": "1" } },
});
const valueFor = (name: string) => findHeaderRule(rules, name)?.headers["Authorization"];

test("a name comes before a pattern, a longer pattern before a shorter one, and they are not merged", () => {
  expect(["api.example.com", "a.b.example.com", "x.a.b.example.com", "b.example.com", "c.example.com"].map(valueFor)).toEqual([
    "exact",
    "long",
    "long",
    "short",
    "short",
  ]);
  expect(["example.com", "notexample.com", "api.example.com.evil.test", "constructor", "__proto__", ""].map(valueFor)).toEqual(
    Array.from({ length: 6 }, () => undefined),
  );
});

test("other values leave domains and names as they are", () => {
  expect(mapHeaderValues(rules, (value, domain, name) => `${domain} ${name} ${value.length}`)["*.b.example.com"]).toEqual({
    headers: { Authorization: "*.b.example.com Authorization 4", "X-More": "*.b.example.com X-More 1" },
  });
});

const headers = (given: Record<string, string>) => headerRulesSchema.safeParse({ "a.test": { headers: given } }).success;

test.each(["a\rb", "a\nb", "a\0b", "\x7f", "a ", "\ta", "\u0100", "x".repeat(2_049), "${e2b.identity.tokens.a}", "<redacted>"])(
  "the value %j is refused",
  (value) => {
    expect(headers({ a: value })).toBe(false);
  },
);

test.each(["", "a b", "a\tb", "é", "Bearer x.y-z", "x".repeat(2_048), "${HOME}"])("the value %j is taken", (value) => {
  expect(headers({ a: value })).toBe(true);
});

test.each(["Host", "CONNECTION", "te", "a b", "a:b", "a\r", "", "é", "x".repeat(65)])("the name %j is refused", (name) => {
  expect(headers({ [name]: "v" })).toBe(false);
});
