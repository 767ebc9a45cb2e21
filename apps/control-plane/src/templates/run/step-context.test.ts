import { expect, test } from "vitest";

import { contextAfter, expand, pathIn, withHome, type StepContext } from "./step-context.ts";

const envs = { A: "one", EMPTY: "", DOLLAR: "$A" };
const context: StepContext = { user: "user", workdir: "/srv/app", envs };

test.each([
  ["$A/${A}x", "one/onex"],
  ["$Ax-$EMPTY-$UNKNOWN-${UNKNOWN}", "---"],
  ["$$A costs 5$", "$A costs 5$"],
  ["$DOLLAR", "$A"],
  ["${A:-other} $1 ${", "${A:-other} $1 ${"],
  ["$constructor ${toString}", " "],
])("%s", (text, expanded) => {
  expect(expand(text, envs)).toBe(expanded);
});

test("paths are below the working directory, or the home where there is none", () => {
  expect(["x", "./x/", "../x", "/x/../y", "~/x", "."].map((path) => pathIn(context, path))).toEqual([
    "/srv/app/x",
    "/srv/app/x/",
    "/srv/x",
    "/y",
    "~/x",
    "/srv/app",
  ]);
  const atHome = { ...context, workdir: "" };
  expect(["x/", "~", "~x"].map((path) => withHome(pathIn(atHome, path), "/home/u"))).toEqual(["/home/u/x/", "/home/u", "/home/u/~x"]);
  expect(withHome("", "/root")).toBe("/root");
});

test("what steps say holds for those after them, and not before", () => {
  const said = contextAfter({ kind: "env", envs: { B: "$A-${B}", A: "two" } }, context);
  expect(said.envs).toEqual({ ...envs, B: "one-", A: "two" });
  expect(contextAfter({ kind: "env", envs: { B: "$B$A" } }, said).envs["B"]).toBe("one-two");
  const below = contextAfter({ kind: "workdir", path: "$A/" }, context);
  expect(below.workdir).toBe("/srv/app/one");
  expect(contextAfter({ kind: "workdir", path: "/" }, below).workdir).toBe("/");
  expect(contextAfter({ kind: "user", name: "root" }, below)).toEqual({ ...below, user: "root" });
  expect(contextAfter({ kind: "run", command: "USER=x" }, below)).toBe(below);
});
