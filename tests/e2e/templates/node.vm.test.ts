import type { SandboxHandle } from "@roost/sdk";
import { beforeAll, expect, test } from "vitest";

import { usePlatform } from "../../support/platform.ts";
import { buildRecipe, recipeTimeoutMs } from "../../support/recipe.ts";

const platform = usePlatform();
let sandbox: SandboxHandle;
beforeAll(async () => {
  await buildRecipe(platform(), "node");
  sandbox = await platform().sandbox({ template: "node", timeout_sec: 0 });
}, recipeTimeoutMs);

/** Output of a shell's command, which must succeed. */
async function run(command: string): Promise<string> {
  const { stdout, stderr, exit_code: exitCode } = await sandbox.exec("bash", { args: ["-c", command], timeout_sec: 240 });
  expect(exitCode, `${command}: ${stderr}`).toBe(0);
  return stdout.trim();
}

test("TypeScript is compiled and run", async () => {
  expect(await sandbox.get()).toMatchObject({ start_path: "restore", template: "node" });
  await sandbox.files.write(
    "/home/user/sum.ts",
    "const sum = (...all: number[]): number => all.reduce((a, b) => a + b, 0);\nconsole.log(sum(40, 2));\n",
  );
  expect(await run("tsc --target es2020 sum.ts && node sum.js")).toBe("42");
});

test("npm installs a package for this user, and its command is found", async () => {
  await sandbox.files.write("/home/user/tool/package.json", JSON.stringify({ name: "tool", version: "1.2.3", bin: "tool.js" }));
  await sandbox.files.write("/home/user/tool/tool.js", "#!/usr/bin/env node\nconsole.log(`tool ${process.argv[2]}`);\n");
  await run("npm pack --silent ./tool && npm install --global --offline --no-audit ./tool-1.2.3.tgz");
  expect(await run("tool works; which tool")).toBe("tool works\n/home/user/.npm-global/bin/tool");
});
