import { execFile } from "node:child_process";
import { mkdir, symlink, writeFile, chmod } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { afterAll, beforeAll, expect, test } from "vitest";

import { TestBundle } from "../testing/bundle.ts";
import { TestCli } from "../testing/test-cli.ts";

let bundle: TestBundle;
let cli: TestCli;
let id: string;
beforeAll(async () => {
  bundle = await TestBundle.build();
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
  await mkdir(join(cli.folder, "bin"));
  await writeFile(join(cli.folder, "bin/roost"), `#!/bin/sh\nexec "${process.execPath}" "${bundle.main}" "$@"\n`);
  await chmod(join(cli.folder, "bin/roost"), 0o755);
  await symlink("bin/roost", join(cli.folder, "link"));
});
afterAll(async () => {
  await cli[Symbol.asyncDispose]();
  await bundle[Symbol.asyncDispose]();
});

/** What bash would offer for a line with the cursor at its end. */
async function completionsOf(line: string): Promise<string[]> {
  const script = `
    source <(roost completion bash)
    COMP_LINE=$1 COMP_POINT=\${#1} COMP_WORDS=() COMP_CWORD=0
    _roost_complete 2>/dev/null
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const environment = { ...cli.environment, PATH: `${cli.folder}/bin:/usr/bin:/bin` };
  const { stdout } = await promisify(execFile)("bash", ["-c", script, "bash", line], { env: environment, cwd: cli.folder });
  return stdout.split("\n").filter(Boolean);
}

test("bash: commands, options, their values and sandbox ids", async () => {
  expect(await completionsOf("roost ")).toEqual(expect.arrayContaining(["create", "exec", "up", "doctor"]));
  expect(await completionsOf("roost sh")).toEqual(["shell"]);
  expect(await completionsOf("roost create --me")).toEqual(["--memory", "--metadata"]);
  expect(await completionsOf("roost ls --state run")).toEqual(["running"]);
  expect(await completionsOf("roost exec ")).toEqual([id]);
  expect(await completionsOf(`roost get ${id.slice(0, 4)}`)).toEqual([id]);
  expect(await completionsOf(`roost cp file ${id.slice(0, 4)}`)).toEqual([`${id}:`]);
  expect(await completionsOf(`roost pause ${id} `)).toEqual([id]);
  expect(await completionsOf("roost completion ")).toEqual(["bash", "zsh", "fish"]);
});

test("bash: commands of commands, and names of snapshots and templates", async () => {
  expect(await completionsOf("roost snap")).toEqual(["snapshot"]);
  expect(await completionsOf("roost snapshot ")).toEqual(["create", "ls", "rm"]);
  expect(await completionsOf("roost snapshot create ")).toEqual([id]);
  expect(await completionsOf("roost snapshot rm ")).toEqual([]);
  await cli.run(["snapshot", "create", id, "trained"]);
  expect(await completionsOf("roost snapshot rm tr")).toEqual(["trained"]);
  expect(await completionsOf("roost create --template ")).toEqual(["base", "trained"]);
  expect(await completionsOf("roost ls -t tra")).toEqual(["trained"]);
  expect(await completionsOf("roost inspect ")).toEqual([id, "trained"]);
});

test("bash: names of templates and ids of builds", async () => {
  expect(await completionsOf("roost template b")).toEqual(["build", "builds"]);
  await cli.run(["template", "build", "--from-image", "a", "-t", "web"]);
  const [build] = cli.api.sandboxes.builds.list();
  expect(await completionsOf("roost template get we")).toEqual(["web"]);
  expect(await completionsOf("roost template rm ")).toContain("web");
  expect(await completionsOf("roost template build --from-template we")).toEqual(["web"]);
  expect(await completionsOf("roost template build --from-i")).toEqual(["--from-image"]);
  expect(await completionsOf("roost create -t we")).toEqual(["web"]);
  expect(await completionsOf("roost template logs ")).toEqual([build?.id]);
  expect(await completionsOf("roost template tag web stable --build ")).toEqual([build?.id]);
  expect(await completionsOf("roost template builds --state rea")).toEqual(["ready"]);
});

test("bash: names of keys, and scopes", async () => {
  expect(await completionsOf("roost key ")).toEqual(["create", "ls", "rm"]);
  await cli.run(["key", "create", "ci"]);
  expect(await completionsOf("roost key rm ")).toEqual(["ci"]);
  expect(await completionsOf("roost key create x --scopes host")).toEqual(["hosts:read", "hosts:write"]);
});

test("bash: people and teams", async () => {
  expect(await completionsOf("roost team role ada")).toEqual(["ada@example.org"]);
  expect(await completionsOf("roost team role ada@example.org ")).toEqual(["member", "admin"]);
  expect(await completionsOf("roost admin suspend a")).toEqual(["ada@example.org"]);
  expect(await completionsOf("roost admin quota ")).toEqual(["default"]);
});

test("what stands on the line is never run", async () => {
  await completionsOf("roost exec $(touch pwned) `touch pwned` ; touch pwned; ");
  await expect(promisify(execFile)("ls", [join(cli.folder, "pwned")])).rejects.toThrow("No such file");
});

test("no platform: commands still complete, ids silently do not", async () => {
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [bundle.main, "complete", "--", "get", ""], {
    env: { PATH: "/usr/bin:/bin", ROOST_DIR: join(cli.folder, "none") },
  });
  expect(stdout.trim()).toBe(":4");
  expect(stderr).toBe("");
});

test.each(["zsh", "fish"])("a script for %s is printed", async (shell) => {
  const { stdout } = await promisify(execFile)(process.execPath, [bundle.main, "completion", shell]);
  expect(stdout).toContain("roost");
});

test("bash: hosts, and the tags that they have", async () => {
  cli.api.sandboxes.hosts.add("rack-7", { tags: ["zone-a"] });
  expect(await completionsOf("roost host drain ra")).toEqual(["rack-7"]);
  expect(await completionsOf("roost host drain rack-7 --mode ")).toEqual(["pause", "wait", "move"]);
  expect(await completionsOf("roost create --host-tag zo")).toEqual(["zone-a"]);
});
