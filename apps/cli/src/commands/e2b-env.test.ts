import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { afterEach, beforeEach, expect, test } from "vitest";

import { e2bEnvironment, formatExports, formatExportsWithoutKey } from "../platform/e2b-environment.ts";
import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

/** What a shell has in its environment after it evaluated the lines. */
async function evaluated(lines: string): Promise<string[]> {
  const script = `${lines}\nprintf '%s\\n' "$E2B_API_KEY" "$E2B_API_URL" "$E2B_SANDBOX_URL"`;
  const { stdout } = await promisify(execFile)("sh", ["-c", script], { env: { PATH: "/usr/bin:/bin" } });
  return stdout.trimEnd().split("\n");
}

test("three exports that a shell can evaluate, with the key as E2B's tools want it", async () => {
  const { exitCode, stdout, stderr } = await cli.run(["e2b-env"]);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  expect(await evaluated(stdout.toString())).toEqual([cli.api.apiKey.replace("roost_", "e2b_"), cli.api.url, cli.api.url]);
});

test("as JSON and for fish", async () => {
  const key = cli.api.apiKey.replace("roost_", "e2b_");
  expect(JSON.parse((await cli.run(["e2b-env", "--json"])).stdout.toString())).toEqual({
    E2B_API_KEY: key,
    E2B_API_URL: cli.api.url,
    E2B_SANDBOX_URL: cli.api.url,
  });
  expect((await cli.run(["e2b-env", "--shell", "fish"])).stdout.toString().split("\n")[0]).toBe(`set -gx E2B_API_KEY ${key}`);
  expect(await cli.run(["e2b-env", "--shell", "tcsh"])).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("sh, fish") });
});

test("a key of either form is the same key, and an address has no slash at its end", () => {
  expect(e2bEnvironment({ url: "https://host:8443/", apiKey: "e2b_00ff" })).toEqual({
    E2B_API_KEY: "e2b_00ff",
    E2B_API_URL: "https://host:8443",
    E2B_SANDBOX_URL: "https://host:8443",
  });
});

test("an address with a path is refused: E2B's SDK would lose it on the way to files", async () => {
  const environment = { ROOST_URL: "https://host/roost", ROOST_API_KEY: "roost_00ff" };
  expect(await cli.run(["e2b-env"], { environment })).toMatchObject({
    exitCode: 1,
    stdout: Buffer.alloc(0),
    stderr: expect.stringContaining("https://host/roost"),
  });
});

test("whatever is in the values, the shell sees them and nothing else", async () => {
  const odd = { E2B_API_KEY: `e2b_'; echo "$HOME" \\`, E2B_API_URL: "http://h/$(id)", E2B_SANDBOX_URL: "http://h/ x" };
  expect(await evaluated(formatExports(odd, "sh"))).toEqual(Object.values(odd));
  expect(formatExports({ ...odd, E2B_API_KEY: `a\\b'c` }, "fish")).toContain(`set -gx E2B_API_KEY 'a\\\\b\\'c'`);
});

test("without the key in it: the lines read it from its file", async () => {
  const dir = join(cli.folder, "it's here");
  await mkdir(dir);
  await writeFile(join(dir, "api-key"), "roost_00ff\n");
  const lines = formatExportsWithoutKey(dir, "http://127.0.0.1:7070");
  expect(lines).not.toContain("00ff");
  expect(await evaluated(lines)).toEqual(["e2b_00ff", "http://127.0.0.1:7070", "http://127.0.0.1:7070"]);
});
