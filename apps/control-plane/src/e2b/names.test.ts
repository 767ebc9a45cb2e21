import { expect, test } from "vitest";

import { fullName, namesOf, newSnapshotName, templateNamed } from "./names.ts";

test.each([
  ["x", "x"],
  ["x:default", "x"],
  ["x:v1.0", "x:v1.0"],
  ["Team/x", "team/x"],
  ["team/x:v1", "team/x:v1"],
  ["team/x:default", "team/x"],
  ["Mixed-Case_1", "Mixed-Case_1"],
])("%s means %s", (text, name) => {
  expect(templateNamed(text)).toBe(name);
});

test.each(["", ":", "x:", ":v1", "x:y:z", "../x", "x:../y", "-x", "x/", "x y", "x".repeat(130), "x\0"])("%j is no name", (text) => {
  expect(templateNamed(text)).toBeUndefined();
  expect(() => newSnapshotName(text)).toThrow(/name: .* is not accepted/);
});

test("a snapshot that is given no name gets one that nobody else has, and has none to be listed by", () => {
  const name = newSnapshotName(undefined);
  expect(name).not.toBe(newSnapshotName(undefined));
  expect(namesOf(name)).toEqual([]);
  expect(templateNamed(fullName(name))).toBe(name);
});

test("a name is told with its tag", () => {
  expect([fullName("x"), fullName("x:v1")]).toEqual(["x:default", "x:v1"]);
  expect([namesOf("x"), namesOf("x:v1")]).toEqual([["x:default", "x"], ["x:v1"]]);
});
