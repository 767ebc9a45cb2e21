import { recipeSchema, type RecipeInput, type RecipeStep } from "@roost/contract";
import { expect, test } from "vitest";

import type { BuildSource } from "./build-source.ts";
import { cachedPrefix, describeStep, planSteps } from "./plan.ts";
import { outerSources, planRecipe } from "./recipe-plan.ts";
import type { StepContext } from "./step-context.ts";
import { keyOfSource, keyOfStep, layerName } from "./step-keys.ts";

const context: StepContext = { user: "", workdir: "", envs: { A: "1", B: "2" } };
const run = (command: string, more: object = {}): RecipeStep => ({ kind: "run", command, ...more });
const source = keyOfSource("default", "sha256:base");

function plan(steps: readonly RecipeStep[], more: Partial<Parameters<typeof planSteps>[0]> = {}) {
  return planSteps({ steps, key: source, context, stage: undefined, force: false, keyOfStage: () => "stage", ...more });
}

test("a key follows from all that a step follows from, and from nothing else", () => {
  const key = keyOfStep(source, run("make"), context, undefined);
  expect(keyOfStep(source, run("make", { force: true }), { ...context, envs: { B: "2", A: "1" } }, undefined)).toBe(key);
  expect(keyOfStep(source, run("make", { user: undefined }), context, undefined)).toBe(key);
  const others = [
    keyOfStep(keyOfSource("default", "sha256:other"), run("make"), context, undefined),
    keyOfStep(source, run("make all"), context, undefined),
    keyOfStep(source, run("make", { user: "root" }), context, undefined),
    keyOfStep(source, run("make"), { ...context, user: "user" }, undefined),
    keyOfStep(source, run("make"), { ...context, workdir: "/" }, undefined),
    keyOfStep(source, run("make"), { ...context, envs: { A: "1" } }, undefined),
    keyOfStep(source, { kind: "user", name: "make" }, context, undefined),
  ];
  expect(new Set([key, ...others]).size).toBe(others.length + 1);
  expect(layerName(key)).toMatch(/^step-[0-9a-f]{40}$/);
});

test("what is copied from a stage is known by what the stage does, not by its name", () => {
  const copy = (stage: string): RecipeStep => ({ kind: "copy-from-stage", stage, source: "/a", destination: "/a" });
  expect(keyOfStep(source, copy("one"), context, "k1")).toBe(keyOfStep(source, copy("two"), context, "k1"));
  expect(keyOfStep(source, copy("one"), context, "k1")).not.toBe(keyOfStep(source, copy("one"), context, "k2"));
});

test("steps that only change the context have no layer, and change the key of what follows", () => {
  const {
    steps,
    context: end,
    key,
  } = plan([run("a"), { kind: "env", envs: { A: "3" } }, { kind: "user", name: "user" }, run("a"), { kind: "workdir", path: "/x" }]);
  expect(steps.map(({ layer }) => layer !== undefined)).toEqual([true, false, false, true, false]);
  expect(steps.map(({ label }) => label)).toEqual(["0", "1", "2", "3", "4"]);
  expect(steps[0]?.layer).not.toBe(steps[3]?.layer);
  expect(steps[3]?.context).toEqual({ user: "user", workdir: "", envs: { A: "3", B: "2" } });
  expect(end.workdir).toBe("/x");
  expect(key).toBe(steps[4]?.key);
});

test("the cached prefix ends with the last layer that is there, whether or not those before are", () => {
  const { steps } = plan([run("a"), { kind: "env", envs: {} }, run("b"), { kind: "workdir", path: "/" }, run("c")]);
  const has = (...indexes: number[]) => {
    const there = new Set(indexes.map((index) => steps[index]?.layer));
    return cachedPrefix(steps, (layer) => there.has(layer));
  };
  expect([has(), has(0), has(2), has(0, 2), has(0, 4)]).toEqual([0, 1, 3, 3, 5]);
});

test("force: from that step on nothing comes from the cache", () => {
  expect(plan([run("a"), run("b", { force: true }), run("c")]).steps.map(({ isForced }) => isForced)).toEqual([false, true, true]);
  expect(plan([run("a")], { force: true }).steps[0]?.isForced).toBe(true);
});

const outside: BuildSource = { hostTemplate: "base", key: source, context, startCommand: "serve", readyCommand: "", hasMemory: false };
const recipe = (input: RecipeInput) => recipeSchema.parse(input);

test("a stage from a stage goes on where that ended; force goes with it", () => {
  const { stages, main } = planRecipe(
    recipe({
      from: { stage: "two" },
      steps: [run("c")],
      stages: [
        { name: "one", from: { template: "base" }, steps: [run("a", { force: true }), { kind: "env", envs: { C: "3" } }] },
        { name: "two", from: { stage: "one" }, steps: [run("b")] },
      ],
    }),
    () => outside,
  );
  expect(stages.map(({ stage }) => stage)).toEqual(["one", "two"]);
  expect([...stages, main].map(({ from }) => from)).toEqual([outside, "one", "two"]);
  expect(stages[1]?.plan.steps[0]?.label).toBe("stage two 0");
  expect(main.plan.steps[0]).toMatchObject({ label: "0", isForced: true, context: { envs: { C: "3" } } });
  expect(main.inherited.startCommand).toBe("serve");
  const oneChain = plan([run("a", { force: true }), { kind: "env", envs: { C: "3" } }, run("b"), run("c")]);
  expect(main.plan.key).toBe(oneChain.key);
});

test("a name of a stage is no part of a key; what the stage does is", () => {
  const keyWith = (name: string, command: string) =>
    planRecipe(
      recipe({
        from: { template: "base" },
        steps: [{ kind: "copy-from-stage", stage: name, source: "/a", destination: "/a" }],
        stages: [{ name, from: { template: "base" }, steps: [run(command)] }],
      }),
      () => outside,
    ).main.plan.key;
  expect(keyWith("x", "a")).toBe(keyWith("y", "a"));
  expect(keyWith("x", "a")).not.toBe(keyWith("x", "b"));
});

test("sources from outside are the stages' and the main one", () => {
  const sources = outerSources(
    recipe({
      from: { image: "debian:12" },
      stages: [
        { name: "a", from: { template: "base" }, steps: [] },
        { name: "b", from: { stage: "a" }, steps: [] },
      ],
    }),
  );
  expect(sources).toEqual([{ template: "base" }, { image: "debian:12" }]);
});

test("steps read as one line, without values of variables", () => {
  expect(describeStep(run("a\n  && b", { user: "root" }))).toBe("RUN a && b (as root)");
  expect(describeStep({ kind: "env", envs: { TOKEN: "secret", X: "1" } })).toBe("ENV TOKEN X");
  expect(describeStep(run("x".repeat(1_000))).length).toBeLessThan(320);
});
