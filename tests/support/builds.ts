import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { buildEnded, type Build, type RecipeInput } from "@roost/contract";
import { poll } from "@roost/kit";

import { findVmm } from "./find-vmm.ts";
import type { TestPlatform } from "./test-platform.ts";

/** Longest that a test waits for something of a build in `ms`: it boots guests, perhaps under emulation */
export const buildTimeoutMs = 240_000;

export async function endOf(platform: TestPlatform, id: string, timeoutMs: number = buildTimeoutMs): Promise<Build> {
  return poll({ what: `the end of build ${id}`, timeoutMs, intervalMs: 200 }, async () => {
    const build = await platform.client.builds.get(id);
    return buildEnded.has(build.state) ? build : undefined;
  });
}

/** Lines as `<step> <message>`, with `-` where it is about none. */
export async function logOf(platform: TestPlatform, id: string): Promise<string[]> {
  const lines: string[] = [];
  for await (const { step, message } of platform.client.builds.logs(id)) lines.push(`${step ?? "-"} ${message}`);
  return lines;
}

/** Resolves when so many lines of a build's log have `text` in them; fails when it ends before. */
export async function untilSaid(platform: TestPlatform, id: string, text: string, times = 1): Promise<void> {
  const isSaid = async () => (await logOf(platform, id)).filter((line) => line.includes(text)).length >= times;
  await poll({ what: `"${text}" in the log of build ${id}`, timeoutMs: buildTimeoutMs, intervalMs: 100 }, async () => {
    const { state, failure } = await platform.client.builds.get(id);
    if (await isSaid()) return true;
    if (buildEnded.has(state)) throw new Error(`the build is ${state} without it: ${failure?.message ?? ""}`);
    return undefined;
  });
}

/** Begins a build and leaves it to itself. Answers its id. */
export async function begin(platform: TestPlatform, name: string, recipe: RecipeInput): Promise<string> {
  return (await platform.client.templates.start({ recipe }, { name })).build.id;
}

/** Pid of the VMM of a sandbox that no user sees, and that is not `after`'s. */
export async function hiddenVmm(platform: TestPlatform, after?: number): Promise<number> {
  return poll({ what: "the VMM of a build", timeoutMs: buildTimeoutMs, intervalMs: 50 }, async () => {
    const known = new Set<string>();
    for await (const { id } of platform.client.sandboxes.list()) known.add(id);
    for (const id of await readdir(join(platform.folder, "sandboxes"))) {
      const pid = known.has(id) ? undefined : await findVmm(platform.folder, id);
      if (pid !== undefined && pid !== after) return pid;
    }
    return undefined;
  });
}

/** Sends bytes as an archive under a hash that need not be theirs. Answers the status, and the error's code where there is one. */
export async function upload(platform: TestPlatform, name: string, hash: string, body: Buffer): Promise<string> {
  const apiKey = (await readFile(join(platform.folder, "api-key"), "utf8")).trim();
  const answer = await fetch(`${platform.client.url}/v1/templates/files/${hash}?name=${name}`, {
    method: "PUT",
    headers: { "x-api-key": apiKey, "content-type": "application/octet-stream" },
    body: new Uint8Array(body),
  });
  const code = /"code":"([a-z_]+)"/.exec(await answer.text())?.[1];
  return code === undefined ? String(answer.status) : `${answer.status} ${code}`;
}
