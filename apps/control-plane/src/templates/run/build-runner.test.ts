import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { Database } from "../../db/database.ts";
import { BuildWorld, type ControlPlane } from "../../testing/build-world.ts";
import { firstTeam } from "../../testing/first-team.ts";
import { openTestDatabase } from "../../testing/test-database.ts";
import { hostTemplateOf } from "../names.ts";

let database: Database;
let world: BuildWorld;
let builder: ControlPlane;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  world = await BuildWorld.start(database);
  builder = world.controlPlane().start();
});
afterEach(async () => world[Symbol.asyncDispose]());

const run = (command: string, more: object = {}) => ({ kind: "run" as const, command, ...more });
const base = { template: "base" };

describe("a build", () => {
  test("does its steps in order, each with what was said before it, and makes a template with memory", async () => {
    const row = await builder.build(
      {
        from: base,
        steps: [
          run("echo one; echo two >&2"),
          { kind: "env", envs: { A: "1", B: "$A-${A}" } },
          { kind: "env", envs: { C: "$A$B" } },
          { kind: "user", name: "user" },
          { kind: "workdir", path: "app" },
          run("true"),
          run("echo $C", { user: "root" }),
        ],
        start_command: "sleep 100",
        ready_command: "true",
      },
      { name: "mine" },
    );
    expect(row).toMatchObject({ state: "ready", failure: null, steps_done: 7, steps_cached: 0, step_count: 7, host_id: "host-1" });
    const commands = world.ran.filter(({ line }) => line !== undefined).map(({ line, user, cwd, envs }) => ({ line, user, cwd, envs }));
    const envs = { A: "1", B: "-", C: "1-" };
    expect(commands.slice(0, 3)).toEqual([
      { line: "echo one; echo two >&2", user: "user", cwd: "/home/user", envs: {} },
      { line: "true", user: "user", cwd: "/home/user/app", envs },
      { line: "echo $C", user: "root", cwd: "/root/app", envs },
    ]);
    expect(commands.slice(3).map(({ line, user }) => [line, user])).toEqual([
      ["sleep 100", "user"],
      ["true", "user"],
    ]);
    const template = world.host.images.templates.get(hostTemplateOf(row.id));
    expect(template).toMatchObject({
      kind: "build",
      hasMemory: true,
      defaults: { user: "user", workdir: "/home/user/app", envs, startCommand: "sleep 100", readyCommand: "true" },
    });
    expect((await builder.services.templates.resolve(firstTeam, "mine"))?.hostTemplate).toBe(template?.name);
    await world.isEmpty();
    const log = await world.logOf(row.id);
    expect(log).toContain("0 RUN echo one; echo two >&2");
    expect(log).toContain("0 one");
    expect(log).toContain("0 two");
    expect(log).toContain("1 ENV A B");
    expect(log.at(-1)).toBe("- the template is ready");
  });

  test("that was done before is not done again; what changed is, with all that follows", async () => {
    const steps = [run("echo a"), { kind: "env" as const, envs: { X: "1" } }, run("echo b"), run("echo c")];
    await builder.build({ from: base, steps });
    const again = await builder.build({ from: base, steps });
    expect(again).toMatchObject({ state: "ready", steps_done: 4, steps_cached: 4 });
    expect(world.lines).toEqual(["echo a", "echo b", "echo c"]);
    expect(await world.logOf(again.id)).toContain("3 CACHED RUN echo c");
    const changed = await builder.build({ from: base, steps: [...steps.slice(0, 2), run("echo B"), run("echo c")] });
    expect(changed).toMatchObject({ steps_done: 4, steps_cached: 1 });
    expect(world.lines.slice(3)).toEqual(["echo B", "echo c"]);
    const forced = await builder.build({ from: base, steps: [steps[0] ?? run(""), run("echo b", { force: true })] });
    expect(forced).toMatchObject({ steps_done: 2, steps_cached: 1 });
    expect(await builder.build({ from: base, steps, force: true })).toMatchObject({ steps_done: 4, steps_cached: 0 });
  });

  test("of which nothing changed takes over the template that the earlier one made; one that is gone is made again", async () => {
    const recipe = { from: base, steps: [run("echo a")], start_command: "true # runs" };
    const first = await builder.build(recipe, { name: "first" });
    world.ran.length = 0;
    const second = await builder.build(recipe, { name: "second" });
    expect(second).toMatchObject({ state: "ready", steps_done: 1, steps_cached: 1, host_template: hostTemplateOf(second.id) });
    expect(world.ran).toEqual([]);
    expect(await world.logOf(second.id)).toContain("finalize CACHED the template of an earlier build that did the same");
    expect(world.host.images.templates.get(hostTemplateOf(second.id))).toMatchObject({
      hasMemory: true,
      defaults: { startCommand: "true # runs" },
    });
    // another command, and a forced one, have templates of their own
    for (const other of [
      { ...recipe, start_command: "true # other" },
      { ...recipe, force: true },
    ])
      await builder.build(other);
    expect(world.lines).toEqual(["true # other", "echo a", "true # runs"]);
    expect(world.hostTemplates).toContain(hostTemplateOf(first.id));
    for (const name of world.hostTemplates) if (name.startsWith("build-")) world.host.images.templates.delete(name);
    world.ran.length = 0;
    const third = await builder.build(recipe);
    expect(third).toMatchObject({ state: "ready", failure: null, steps_cached: 1 });
    expect(world.lines).toEqual(["true # runs"]);
    expect(world.host.images.templates.get(hostTemplateOf(third.id))).toMatchObject({ kind: "build" });
  });

  test("steps after the last layer are done for the template itself, and begun from the cache they are made up for", async () => {
    const steps = [run("true"), { kind: "user" as const, name: "user" }, { kind: "workdir" as const, path: "/srv/x" }];
    await builder.build({ from: base, steps });
    world.ran.length = 0;
    const again = await builder.build({ from: base, steps: [...steps, run("pwd")] });
    expect(again).toMatchObject({ steps_done: 4, steps_cached: 1 });
    expect(world.ran.some(({ script, args }) => script.includes("mkdir -p") && args[0] === "/srv/x" && args[1] === "1000:1000")).toBe(true);
    expect(world.lines).toEqual(["pwd"]);
  });

  test("from a template with memory begins from its disk alone, and takes over what runs in it", async () => {
    await builder.build(
      { from: base, steps: [{ kind: "env", envs: { FROM: "parent" } }], start_command: "true # runs" },
      { name: "parent" },
    );
    const row = await builder.build({ from: { template: "parent" }, steps: [run("true")] });
    expect(row.failure).toBeNull();
    const defaults = world.host.images.templates.get(hostTemplateOf(row.id))?.defaults;
    expect(defaults).toMatchObject({ startCommand: "true # runs", envs: { FROM: "parent" } });
    const steps = [...world.host.images.templates.values()].filter(({ kind }) => kind === "step");
    expect(steps.map(({ hasMemory }) => hasMemory)).toEqual([false, false]);
  });

  test("from an image has what the image says of itself, and a login that is written nowhere", async () => {
    world.host.imports.registry.set("registry.example.com/app:1", { user: "1000:1000", workdir: "/srv", envs: { PATH: "/opt/bin" } });
    const credentials = { type: "basic" as const, username: "me", password: "very-secret" };
    const row = await builder.build({ from: { image: "registry.example.com/app:1" }, steps: [run("pwd")] }, { credentials });
    expect(row.failure).toBeNull();
    expect(world.host.imports.asked[0]?.source.value).toMatchObject({
      reference: "registry.example.com/app:1",
      username: "me",
      password: "very-secret",
    });
    expect(world.ran.find(({ line }) => line === "pwd")).toMatchObject({ user: "user", cwd: "/srv", envs: { PATH: "/opt/bin" } });
    expect(JSON.stringify([row, await world.logOf(row.id)])).not.toContain("very-secret");
    expect(builder.services.builds.credentialsOf(row.id)).toBeUndefined();
  });

  test("credentials are shown to the registry of what the main steps begin from, and to no other one", async () => {
    for (const image of ["private.example.com/a:1", "private.example.com/b:1", "other.example.com/c:1"])
      world.host.imports.registry.set(image, {});
    await builder.build(
      {
        from: { stage: "main" },
        stages: [
          { name: "other", from: { image: "other.example.com/c:1" }, steps: [] },
          { name: "same", from: { image: "private.example.com/b:1" }, steps: [] },
          { name: "main", from: { image: "private.example.com/a:1" }, steps: [] },
        ],
      },
      { credentials: { type: "token", token: "secret" } },
    );
    const shown = world.host.imports.asked.map(({ source }) => source.case === "registry" && [source.value.reference, source.value.token]);
    expect(shown).toEqual([
      ["other.example.com/c:1", ""],
      ["private.example.com/b:1", "secret"],
      ["private.example.com/a:1", "secret"],
    ]);
  });

  test("stages: only what is taken from is built, and only when it is", async () => {
    const recipe = {
      from: base,
      steps: [{ kind: "copy-from-stage" as const, stage: "two", source: "/out", destination: "/in/" }],
      stages: [
        { name: "one", from: base, steps: [run("echo one")] },
        { name: "two", from: { stage: "one" }, steps: [run("echo two")] },
        { name: "unused", from: base, steps: [run("echo unused")] },
      ],
    };
    world.guest.substitute = matching(world.guest.substitute, (script) =>
      script.includes("for path in") ? "printf 'd /out\\0'" : undefined,
    );
    const row = await builder.build(recipe);
    expect(row.failure).toBeNull();
    expect(row).toMatchObject({ state: "ready", step_count: 4, steps_done: 4, steps_cached: 1 });
    expect(world.lines).toEqual(["echo one", "echo two"]);
    const place = world.ran.find(({ script }) => script.includes("merge()"));
    expect(place?.args.slice(1)).toEqual([".", "/in/", "1000:1000", ""]);
    expect(await builder.build(recipe)).toMatchObject({ steps_done: 4, steps_cached: 4 });
    expect(world.lines.length).toBe(2);
    await world.isEmpty();
  });

  test("uploaded files reach the guest as they are, with the step's owner and mode", async () => {
    const hash = "a".repeat(64);
    const template = await builder.services.templates.ensure(firstTeam, "with-files");
    await builder.upload(template.id, hash, Buffer.from([0x1f, 0x8b, 8, 0, 1, 2, 3]));
    const step = { kind: "copy" as const, files: hash, source: "src/*", destination: "$TO/", user: "1000", mode: "0640" };
    const steps = [{ kind: "env" as const, envs: { TO: "/opt" } }, step];
    const row = await builder.build({ from: base, steps }, { name: "with-files" });
    expect(row.failure).toBeNull();
    expect(world.ran.find(({ script }) => script.includes("tar -x"))?.args[1]).toBe("z");
    expect(world.ran.find(({ script }) => script.includes("merge()"))?.args.slice(1)).toEqual(["src", "/opt/", "1000:1000", "0640"]);
    const missing = await builder.build({ from: base, steps: [{ ...step, files: "b".repeat(64) }] }, { name: "with-files" });
    expect(missing).toMatchObject({ state: "failed", failure: { step: "0", message: expect.stringContaining("upload") as string } });
  });
});

/** The same with other answers of scripts that `answer` knows. */
function matching(
  before: BuildWorld["guest"]["substitute"],
  answer: (script: string) => string | undefined,
): BuildWorld["guest"]["substitute"] {
  return (asked, user) => {
    const usual = before?.(asked, user);
    const own = answer(asked.args[2] ?? "");
    return own === undefined ? usual : { cmd: "/bin/sh", args: ["-c", own] };
  };
}

describe("a failing build says which step and why", () => {
  test("a command that fails, with what it printed last", async () => {
    const row = await builder.build({ from: base, steps: [run("true"), run("echo broken; exit 3"), run("echo never")] });
    expect(row).toMatchObject({
      state: "failed",
      steps_done: 1,
      failure: { step: "1", message: "failed to run command 'echo broken; exit 3': exit status 3; it printed last:\nbroken" },
    });
    expect(world.lines).not.toContain("echo never");
    expect(world.hostTemplates.filter((name) => name.startsWith("build-"))).toEqual([]);
    await world.isEmpty();
  });

  test("an unknown user, as E2B says it", async () => {
    const row = await builder.build({ from: base, steps: [run("whoami", { user: "root123" })] });
    expect(row.failure).toEqual({
      step: "0",
      message: "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
    });
  });

  test.each([
    ["an unknown template", { from: { template: "nothing" } }, { step: "base", message: 'there is no template "nothing"' }],
    ["an internal one", { from: { template: `step-${"0".repeat(40)}` } }, { step: "base" }],
    ["an unknown image", { from: { image: "nothing:1" } }, { step: "base" }],
    ["a start command that ends", { from: base, start_command: "echo no; exit 4" }, { step: "finalize" }],
    [
      "a stage",
      {
        from: base,
        steps: [{ kind: "copy-from-stage", stage: "s", source: "/x", destination: "/" }],
        stages: [{ name: "s", from: base, steps: [run("exit 1")] }],
      },
      { step: "stage s 0" },
    ],
  ] as const)("%s", async (_what, recipe, failure) => {
    const row = await builder.build(recipe as never);
    expect(row).toMatchObject({ state: "failed", failure });
    await world.isEmpty();
  });

  test("an image that wants credentials which a restart forgot", async () => {
    const row = await builder.build({ from: { image: "private:1" } });
    expect(row.failure?.message).toMatch(/there is no image private:1.*never stored/);
  });

  test("a full host", async () => {
    world.host.images.failures.set(
      "createTemplate",
      (await import("../../testing/fake-images.ts")).hostError("host_disk_full", "the host's disk is full"),
    );
    const row = await builder.build({ from: base, steps: [run("true")] });
    expect(row).toMatchObject({
      state: "failed",
      failure: { step: "0", message: expect.stringMatching(/disk is full; delete/) as string },
    });
    await world.isEmpty();
  });

  test("one that takes too long", async () => {
    const impatient = world.controlPlane({ timeoutMs: 300 });
    await builder.stop();
    impatient.start();
    const row = await impatient.build({ from: base, steps: [run("sleep 1000")] });
    expect(row).toMatchObject({ state: "failed", failure: { message: expect.stringContaining("ROOST_BUILD_TIMEOUT_SEC") as string } });
    await world.isEmpty();
    expect(world.guest.runningPids).toEqual([]);
  });
});
