import { expect, test } from "vitest";

import {
  hostTemplateOf,
  hostTemplateOfSnapshot,
  isTemplateId,
  newTemplateId,
  parseNewName,
  parseReference,
  parseTag,
  shownName,
} from "./names.ts";

const uuid = "0a1b2c3d-0000-4000-8000-0123456789ab";

test.each([
  ["x", undefined, "x", undefined],
  ["X", undefined, "x", undefined],
  ["team/x", "team", "x", undefined],
  ["My-Team.1/My_Template:V1.0", "my-team.1", "my_template", "v1.0"],
  ["x:default", undefined, "x", "default"],
  ["-x_", undefined, "-x_", undefined],
  [`x:${uuid}`, undefined, "x", uuid],
])("%s means, in namespace %s, %s with tag %s", (text, namespace, name, tag) => {
  expect(parseReference(text)).toEqual({ namespace, name, tag });
});

test("what is built is built in the own namespace, which need not be said", () => {
  for (const text of ["x:v1", "mine/x:v1", "MINE/X:v1"]) expect(parseNewName(text, "mine")).toMatchObject({ name: "x", tag: "v1" });
  expect(() => parseNewName("theirs/x", "mine")).toThrow(/name: "theirs\/x" is not accepted: .*"mine"/);
});

const never = [
  "",
  ":",
  "x:",
  ":v1",
  "/x",
  "x/",
  "a/b/c",
  "x:y:z",
  "x y",
  "x.y",
  "ü",
  "x\0",
  "../x",
  "x:a/b",
  "x".repeat(64),
  `x:${"y".repeat(64)}`,
];

test.each(never)("%j is no name", (text) => {
  expect(parseReference(text)).toBeUndefined();
  expect(() => parseNewName(text, "default")).toThrow(/name: .* is not accepted/);
});

test.each([`image-${"0".repeat(24)}`, `step-${"a".repeat(40)}`, hostTemplateOf(uuid), hostTemplateOfSnapshot(uuid), newTemplateId()])(
  "%s is the platform's own",
  (name) => {
    expect(parseReference(name)).toBeDefined();
    expect(() => parseNewName(name, "default")).toThrow(/platform's own/);
  },
);

test("a tag is lower-cased, and never the id of a build", () => {
  expect(parseTag("V1.0")).toBe("v1.0");
  for (const tag of ["", "a b", "a/b", "a:b", "x".repeat(64)]) expect(() => parseTag(tag), tag).toThrow(/tag: .* is not accepted/);
  expect(() => parseTag(uuid)).toThrow(/UUID/);
  expect(() => parseTag(uuid.toUpperCase())).toThrow(/UUID/);
  expect(() => parseNewName(`x:${uuid}`, "default")).toThrow(/UUID/);
});

test("names of the platform's making", () => {
  const id = newTemplateId();
  expect(isTemplateId(id)).toBe(true);
  expect(newTemplateId()).not.toBe(id);
  expect(hostTemplateOf(uuid)).toBe("build-0a1b2c3d0000400080000123456789ab");
  expect([shownName("x", "default"), shownName("x", "v1")]).toEqual(["x", "x:v1"]);
});
