import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { must, run } from "@roost/kit";

import type { Bench, Group } from "./bench.ts";
import { baseImage } from "./images-folder.ts";
import { row } from "./report.ts";

/** Longest a container may take in `ms`. */
const containerTimeoutMs = 30_000;

/**
 * A mount namespace with the base template's root file system; it lives until its standard input ends, so whatever becomes of us, no mount stays.
 * Debian 12's crun refuses machines where version 2 of cgroups is mounted beside version 1 and has controllers: there it gets version 1 alone.
 */
const namespaceScript = `
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -o loop,ro,noload "$1" "$2/lower"
echo ready
cat >/dev/null
`;

/** What a container engine does for `run`: a fresh writable layer, then crun. */
const containerScript = `
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$2/upper,workdir=$2/work" "$2/rootfs"
exec crun --root "$1/state" run --bundle "$2" "$3"
`;

/** Containers from the root file system that sandboxes start from: what a user might pick instead of a sandbox. */
export const crunGroup: Group = {
  name: "crun",
  run: async (bench: Bench) => {
    const samples = await measure(bench.samples(20));
    bench.report(row("crun: start of a container from the same root to its output", "ms", samples));
  },
};

/** From nothing to the first output of each container, in `ms`. */
async function measure(count: number): Promise<number[]> {
  const folder = await mkdtemp(join(tmpdir(), "roost-bench-crun-"));
  let namespace: ChildProcess | undefined;
  try {
    await mkdir(join(folder, "lower"));
    namespace = await openNamespace(await baseImage(), folder);
    const pid = must(namespace.pid, "the namespace's process");
    const samples: number[] = [];
    for (let index = 0; index < count; index += 1) samples.push(await startContainer(folder, pid, `roost-bench-${process.pid}-${index}`));
    return samples;
  } finally {
    await closeNamespace(namespace);
    await rm(folder, { recursive: true, force: true });
  }
}

async function openNamespace(image: string, folder: string): Promise<ChildProcess> {
  const child = spawn("unshare", ["--mount", "--propagation", "private", "sh", "-ec", namespaceScript, "sh", image, folder], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "exit").then(([code]) => {
    throw new Error(`the root file system for containers could not be mounted: exit code ${String(code)}`);
  });
  await Promise.race([once(must(child.stdout, "its output"), "data"), ended]);
  ended.catch(() => undefined); // later its end is ours
  return child;
}

async function closeNamespace(namespace: ChildProcess | undefined): Promise<void> {
  if (namespace === undefined || namespace.exitCode !== null) return;
  const exited = once(namespace, "exit");
  namespace.stdin?.end();
  await exited;
}

async function startContainer(folder: string, pid: number, id: string): Promise<number> {
  const bundle = join(folder, id);
  for (const name of ["upper", "work", "rootfs"]) await mkdir(join(bundle, name), { recursive: true });
  await writeConfig(bundle);
  const enter = ["--mount", `--target=${pid}`] as const;
  const startMs = performance.now();
  const child = spawn("nsenter", [...enter, "sh", "-ec", containerScript, "sh", folder, bundle, id], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: containerTimeoutMs,
  });
  const exited = once(child, "exit");
  const [output] = (await Promise.race([once(child.stdout, "data"), exited])) as [unknown];
  const ms = performance.now() - startMs;
  const [code] = (await exited) as [number | null];
  await run(["nsenter", ...enter, "umount", join(bundle, "rootfs")]);
  if (String(output) !== "ready\n" || code !== 0) throw new Error(`crun printed ${String(output)} and exited with ${code}`);
  return ms;
}

/** crun's own default, without a terminal and without control groups to look at, and with a root that can be written to. */
async function writeConfig(bundle: string): Promise<void> {
  await run(["crun", "spec"], { cwd: bundle });
  const path = join(bundle, "config.json");
  const config = JSON.parse(await readFile(path, "utf8")) as {
    process: { terminal: boolean; args: string[] };
    root: { path: string; readonly: boolean };
    mounts: { type: string }[];
  };
  config.process = { ...config.process, terminal: false, args: ["echo", "ready"] };
  config.root = { path: "rootfs", readonly: false };
  config.mounts = config.mounts.filter(({ type }) => type !== "cgroup");
  await writeFile(path, JSON.stringify(config));
}
