import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { buildEnded, type Build, type RecipeInput } from "@roost/contract";
import { poll } from "@roost/kit";
import { BuildFailedError, type SandboxHandle } from "@roost/sdk";
import { afterAll, beforeAll, expect, test } from "vitest";

import { usePlatform } from "../support/platform.ts";

const platform = usePlatform();

/** A build boots guests, some of them without memory, perhaps under emulation, in `ms` */
const buildTimeoutMs = 240_000;
const busybox = "/run/roost/agent/bin/busybox";
const run = (command: string, more: object = {}) => ({ kind: "run" as const, command, ...more });

let context: string;
beforeAll(async () => {
  await platform().untilMemoryImage();
  context = await mkdtemp(join(tmpdir(), "roost-e2e-context-"));
  await mkdir(join(context, "site/deep"), { recursive: true });
  await writeFile(join(context, "site/index.html"), "hello from a template\n");
  await writeFile(join(context, "site/deep/tool"), "#!/bin/sh\necho tool\n");
  await chmod(join(context, "site/deep/tool"), 0o750);
  await symlink("index.html", join(context, "site/link"));
});
afterAll(async () => rm(context, { recursive: true, force: true }));

const output = async (sandbox: SandboxHandle, command: string) => (await sandbox.exec("sh", { args: ["-c", command] })).stdout.trim();

async function ended(id: string): Promise<Build> {
  return poll({ what: `the end of build ${id}`, timeoutMs: buildTimeoutMs, intervalMs: 200 }, async () => {
    const build = await platform().client.builds.get(id);
    return buildEnded.has(build.state) ? build : undefined;
  });
}

async function logOf(id: string): Promise<string[]> {
  const lines: string[] = [];
  for await (const { step, message } of platform().client.builds.logs(id)) lines.push(`${step ?? "-"} ${message}`);
  return lines;
}

/** Begins a build and resolves when a line of its log contains `text`. */
async function begunUntil(name: string, recipe: RecipeInput, text: string): Promise<string> {
  const { build } = await platform().client.templates.start({ recipe }, { name });
  await poll({ what: `"${text}" in the log`, timeoutMs: buildTimeoutMs, intervalMs: 100 }, async () =>
    (await logOf(build.id)).some((line) => line.includes(text)) ? true : undefined,
  );
  return build.id;
}

const site = {
  from: { template: "base" },
  steps: [
    run("id -un | sudo tee /who > /dev/null"),
    { kind: "env" as const, envs: { GREETING: "hello", BOTH: "$GREETING-${NOTHING}there" } },
    { kind: "user" as const, name: "builder" },
    { kind: "workdir" as const, path: "/srv/app" },
    { kind: "env" as const, envs: { BOTH: "$GREETING there" } },
    run('id -un > who; echo "$BOTH" > both; pwd > where'),
    { kind: "copy" as const, source: "site", destination: "www" },
    run("chown root: www/index.html", { user: "root" }),
  ],
  start_command: `${busybox} httpd -f -p 8000 -h /srv/app/www`,
  ready_command: `${busybox} wget -q -O - http://127.0.0.1:8000/ | grep -q template`,
};

test(
  "a whole build: users, variables, folders, files with links, a server in its memory; the second one does nothing",
  async () => {
    const { client } = platform();
    const lines: string[] = [];
    const onLog = ({ message }: { readonly message: string }) => void lines.push(message);
    const build = await client.templates.build({ recipe: site, context }, { name: "site", onLog });
    expect(build).toMatchObject({ state: "ready", steps_done: 8, steps_cached: 0, failure: null });
    expect(lines).toContainEqual(expect.stringMatching(/^RUN id -un > who/));

    const sandbox = await platform().sandbox({ template: "site", timeout_sec: 0 });
    expect(await sandbox.get()).toMatchObject({ template: "site", start_path: "restore" });
    expect(await output(sandbox, "id -un; pwd; echo $GREETING, $BOTH; cat who both where /who")).toBe(
      ["builder", "/srv/app", "hello, hello there", "builder", "hello there", "/srv/app", "user"].join("\n"),
    );
    expect(await output(sandbox, `${busybox} wget -q -O - http://127.0.0.1:8000/link`)).toBe("hello from a template");
    expect(await output(sandbox, "stat -c '%n %F %a %U' www www/link www/index.html www/deep/tool; readlink www/link")).toBe(
      [
        "www directory 755 builder",
        "www/link symbolic link 777 builder",
        "www/index.html regular file 644 root",
        "www/deep/tool regular file 750 builder",
        "index.html",
      ].join("\n"),
    );
    expect(await output(sandbox, "ls -a / | grep roost-copy; sudo -n id -un")).toBe("root");
    await sandbox.delete();

    const again = await client.templates.build({ recipe: site, context }, { name: "site" });
    expect(again).toMatchObject({ state: "ready", steps_done: 8, steps_cached: 8 });
    const both = await platform().sandbox({ template: "site" });
    expect(await output(both, `${busybox} wget -q -O - http://127.0.0.1:8000/`)).toBe("hello from a template");
    await both.delete();
    await client.templates.delete("site");
  },
  2 * buildTimeoutMs,
);

test(
  "stages: what is copied from one is there, and nothing else of it",
  async () => {
    const build = await platform().client.templates.build(
      {
        recipe: {
          from: { template: "base" },
          steps: [
            { kind: "copy-from-stage", stage: "make", source: "/out/", destination: "/srv/in/", user: "root" },
            { kind: "copy-from-stage", stage: "make", source: "/out/*.txt", destination: "/srv/txt/", user: "root", mode: "0400" },
          ],
          stages: [
            {
              name: "make",
              from: { template: "base" },
              steps: [
                run("mkdir -p /out/sub && echo a > /out/a.txt && echo b > /out/sub/b && ln -s a.txt /out/l && echo c > /left", {
                  user: "root",
                }),
              ],
            },
          ],
        },
      },
      { name: "staged" },
    );
    expect(build).toMatchObject({ steps_done: 3, step_count: 3 });
    const sandbox = await platform().sandbox({ template: "staged" });
    expect(await output(sandbox, "cd /srv && cat in/a.txt in/sub/b in/l && stat -c '%a %U' txt/a.txt && ls /left 2>&1 | tail -c 10")).toBe(
      ["a", "b", "a", "400 root", "directory"].join("\n"),
    );
    await sandbox.delete();
    await platform().client.templates.delete("staged");
  },
  buildTimeoutMs,
);

test(
  "a step that fails is named, with what it printed, and nothing is left",
  async () => {
    const recipe = { from: { template: "base" }, steps: [run("true"), run("echo it is broken >&2; exit 7")] };
    const failure = await platform()
      .client.templates.build({ recipe }, { name: "broken" })
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(BuildFailedError);
    expect(failure).toMatchObject({
      build: { failure: { step: "1", message: expect.stringMatching(/exit status 7[^]*it is broken/) as string } },
    });
    const unknown = await platform()
      .client.templates.build({ recipe: { ...recipe, steps: [run("whoami", { user: "root123" })] } }, { name: "broken" })
      .catch((error: unknown) => error);
    expect((unknown as BuildFailedError).build.failure?.message).toBe(
      "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
    );
  },
  buildTimeoutMs,
);

test(
  "a VM that ends in the midst of a step, twice: the build says so",
  async () => {
    const recipe = { from: { template: "base" }, steps: [run("echo o > /proc/sysrq-trigger; sleep 60", { user: "root" })] };
    const failure = await platform()
      .client.templates.build({ recipe }, { name: "gone" })
      .catch((error: unknown) => error);
    expect((failure as BuildFailedError).build.failure).toMatchObject({
      step: "0",
      message: expect.stringContaining("lost again") as string,
    });
  },
  buildTimeoutMs,
);

test(
  "cancelled in the midst of a step",
  async () => {
    const id = await begunUntil("slow", { from: { template: "base" }, steps: [run("echo begun; sleep 1000")] }, "0 begun");
    await platform().client.builds.cancel(id);
    expect(await ended(id)).toMatchObject({ state: "cancelled", failure: null });
  },
  buildTimeoutMs,
);

test(
  "a platform that is killed in the midst of a build finishes it after its restart, from the cache",
  async () => {
    const recipe = {
      from: { template: "base" },
      steps: [run("date +%N > /srv/first", { user: "root" }), run("echo second; sleep 5; cp /srv/first /srv/second", { user: "root" })],
    };
    const id = await begunUntil("survivor", recipe, "1 second");
    await platform().killHard();
    await platform().up();
    const build = await ended(id);
    expect(build).toMatchObject({ state: "ready", steps_done: 2, steps_cached: 1, failure: null });
    expect(await logOf(id)).toContainEqual(expect.stringMatching(/^0 CACHED RUN date/));
    const sandbox = await platform().sandbox({ template: "survivor" });
    expect(await output(sandbox, "cmp /srv/first /srv/second && echo same")).toBe("same");
    await sandbox.delete();
    await platform().client.templates.delete("survivor");
  },
  buildTimeoutMs,
);
