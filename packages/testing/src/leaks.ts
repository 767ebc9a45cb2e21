import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

import { identifyProcess, run } from "@roost/kit";

/**
 * Everything that an installation of Roost holds in the kernel and in its sandboxes' folders right now, one line each; what
 * a test leaves behind. Found by name, uid and path, not by asking the host agent: a leak is what it forgot.
 *
 *     afterEach(async () => expect(await listOwnedResources(stateDir)).toEqual([]));
 *
 * `stateDir` may be gone already. A platform that runs counts as well: end it first (with its sandboxes), or take the listing before
 * and after. `uidBase` is the installation's `ROOST_UID_BASE`. The names are those of the host agent's `instance.ts`; a test there
 * holds the two together.
 */
export async function listOwnedResources(stateDir: string, uidBase: number = defaults.uidBase): Promise<string[]> {
  const folder = resolveLinks(stateDir);
  const tag = instanceTag(folder);
  const block = await claimedBlock(folder, uidBase);
  const tables = await run(["nft", "list", "tables"]).catch(() => ""); // no nft: no tables of ours either
  const routes = block === undefined ? "" : await run(["ip", "route", "show"]);
  return [
    ...(await listProcesses(folder, block)),
    ...(await listNamed("namespace", "/run/netns", `roost-${tag}-`)),
    ...(await listNamed("link", "/sys/class/net", `rst${tag}v`)),
    ...listLines("table", tables, `roost_${tag}`),
    ...listLines("route", routes, block?.cidr ?? ""),
    ...listLines("mount", await readFile("/proc/self/mountinfo", "utf8"), `${folder}/`, `/run/netns/roost-${tag}-`),
    ...listLines("socket", await readFile("/proc/net/unix", "utf8"), `${folder}/`, `@roost-host-agent-${tag}-`),
    ...(await listCgroups(`roost-${tag}-`)),
    ...(await listSandboxFolders(join(folder, "sandboxes"))),
  ];
}

/** Six hex digits that are in every kernel name of an installation. */
export function instanceTag(stateDir: string): string {
  return createHash("sha256").update(stateDir).digest("hex").slice(0, 6);
}

/** As `realpath` would have it, were it still there. */
function resolveLinks(path: string): string {
  const absolute = resolve(path);
  try {
    return realpathSync(absolute);
  } catch {
    const parent = dirname(absolute); // gone: its parent need not be
    return parent === absolute ? absolute : join(resolveLinks(parent), basename(absolute));
  }
}

interface Block {
  readonly cidr: string;
  readonly uidFirst: number;
  readonly uidCount: number;
}

/** Numbers of the host agent's defaults: `ROOST_SLOT_CIDR` (with another its uids and route are not looked for) and `ROOST_UID_BASE`. */
const defaults = { slotCidr: "198.18.0.0/15", blockSize: 2_048, slotsPerBlock: 1_024, uidBase: 1_879_048_192 } as const;

async function claimedBlock(folder: string, uidBase: number): Promise<Block | undefined> {
  try {
    const claim = JSON.parse(await readFile(join(folder, "network.json"), "utf8")) as { slotCidr: string; index: number };
    if (claim.slotCidr !== defaults.slotCidr) return undefined;
    const offset = claim.index * defaults.blockSize;
    return {
      cidr: `198.${18 + Math.trunc(offset / 65_536)}.${Math.trunc(offset / 256) % 256}.0/21`,
      uidFirst: uidBase + claim.index * defaults.slotsPerBlock,
      uidCount: defaults.slotsPerBlock,
    };
  } catch {
    return undefined; // it never had a network, or the folder is gone
  }
}

async function listProcesses(folder: string, block: Block | undefined): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid || Number(name) === process.ppid) continue;
    if ((await identifyProcess(Number(name))) === undefined) continue; // gone, or a zombie that its parent has yet to reap
    const uid = await stat(join("/proc", name)).then(
      (status) => status.uid,
      () => undefined, // it ended meanwhile
    );
    const command = (await readFile(join("/proc", name, "cmdline"), "utf8").catch(() => "")).replaceAll("\0", " ").trim();
    const isOurs = block !== undefined && uid !== undefined && uid >= block.uidFirst && uid < block.uidFirst + block.uidCount;
    if (isOurs || command.includes(`${folder}/`)) found.push(`process ${name} (uid ${uid}): ${command.slice(0, 200)}`);
  }
  return found;
}

async function listNamed(kind: string, folder: string, prefix: string): Promise<string[]> {
  const names = await readdir(folder).catch(() => []); // no such folder: nothing in it
  return names.filter((name) => name.startsWith(prefix)).map((name) => `${kind} ${name}`);
}

/** What stays of a sandbox that stopped by itself: for an hour they tell how it ended. */
const recordFiles: ReadonlySet<string> = new Set(["sandbox.json", "last-active"]);

/** Folders of sandboxes, less those that hold only the record of a stopped one. */
async function listSandboxFolders(folder: string): Promise<string[]> {
  const ids = await readdir(folder).catch(() => []); // no such folder: nothing in it
  const describe = async (id: string) => {
    const files = await readdir(join(folder, id)).catch(() => []);
    const record = await readFile(join(folder, id, "sandbox.json"), "utf8").catch(() => "{}");
    const { state = "without a record" } = JSON.parse(record) as { state?: string };
    const isLeft = files.some((file) => !recordFiles.has(file)) || state !== "stopped";
    return isLeft ? [`sandbox folder ${id} (${state}: ${files.join(", ")})`] : [];
  };
  return (await Promise.all(ids.map(describe))).flat();
}

function listLines(kind: string, text: string, ...parts: readonly string[]): string[] {
  const wanted = parts.filter((part) => part !== "");
  return text
    .split("\n")
    .filter((line) => wanted.some((part) => line.includes(part)))
    .map((line) => `${kind} ${line.trim()}`);
}

async function listCgroups(prefix: string): Promise<string[]> {
  const root = "/sys/fs/cgroup";
  const hierarchies = [root, ...(await readdir(root).catch(() => [])).map((entry) => join(root, entry))];
  return (await Promise.all(hierarchies.map((folder) => listNamed(`cgroup ${folder}`, folder, prefix)))).flat();
}
