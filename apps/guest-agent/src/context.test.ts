import { expect, test } from "vitest";

import { expandPath } from "./context.ts";

const user = { name: "u", uid: 1, gid: 1, home: "/home/u", shell: "/bin/sh", groups: [1] };

test.each([
  ["", "/home/u"],
  [".", "/home/u"],
  ["~", "/home/u"],
  ["~/", "/home/u"],
  ["~/a", "/home/u/a"],
  ["a/b", "/home/u/a/b"],
  ["../v", "/home/v"],
  ["../../../../etc", "/etc"],
  ["/", "/"],
  ["/..", "/"],
  ["/a//b/./c/..", "/a/b"],
  ["/a/~", "/a/~"],
  ["~/../~", "/home/~"],
])("%j is %j", (path, absolute) => {
  expect(expandPath(path, user)).toBe(absolute);
});

test.each(["~other", "~other/x", "a\0b", `/${"x".repeat(5000)}`, `/${"ü".repeat(2100)}`])("%j is refused", (path) => {
  expect(() => expandPath(path, user)).toThrow(/invalid_argument/);
});
