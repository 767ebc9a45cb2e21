import { createReadStream, existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { run } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";

const repository = fileURLToPath(new URL("../..", import.meta.url));

/** Puts npm packages of this checkout, with all that they need, into a folder of a sandbox: guests of tests have no internet. */
export async function uploadPackages(sandbox: SandboxHandle, folder: string, names: readonly string[]): Promise<void> {
  const found = await closureOf(names);
  const scratch = await mkdtemp(join(tmpdir(), "roost-packages-"));
  try {
    const archive = join(scratch, "packages.tar.gz");
    await run(["tar", "-C", repository, "-czf", archive, ...found.map((name) => `node_modules/${name}`)], { timeoutMs: 60_000 });
    await sandbox.files.write(`${folder}/packages.tar.gz`, createReadStream(archive));
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  const { exit_code: exitCode, stderr } = await sandbox.exec("tar", { args: ["-xzf", "packages.tar.gz"], cwd: folder, timeout_sec: 120 });
  if (exitCode !== 0) throw new Error(`the packages cannot be unpacked: ${stderr}`);
}

async function closureOf(names: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  const waiting = [...names];
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
    if (found.has(name) || !existsSync(join(repository, "node_modules", name))) continue; // for another platform
    found.add(name);
    const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
      await readFile(join(repository, "node_modules", name, "package.json"), "utf8"),
    ) as Partial<Record<"dependencies" | "optionalDependencies", Record<string, string>>>;
    waiting.push(...Object.keys({ ...dependencies, ...optionalDependencies }));
  }
  return [...found];
}
