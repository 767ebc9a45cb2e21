import { spawn, type ChildProcess } from "node:child_process";
import { chmod, chown, mkdir, mkdtemp, open, readFile, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";

import { assert, Cleanup, MiB, minute, must, poll, second, syncFolder } from "@roost/kit";

import { streamIntoTop } from "../vmm/qemu/block-jobs.ts";
import { confine } from "../vmm/qemu/confinement.ts";
import { insidePaths } from "../vmm/qemu/layout.ts";
import { QmpClient } from "../vmm/qemu/qmp.ts";
import { ensureRootSkeleton } from "../vmm/qemu/root-skeleton.ts";
import { validateLayer } from "./layer-header.ts";
import { createLayer, diskError, freezeLayer } from "./layers.ts";

/**
 * What the program that merges runs as. No VM has it (their uids begin above), and merges take turns: so no two programs that read guests' bytes are ever
 * of one uid, and neither could reach into the other.
 */
const mergeUid = 1_879_048_000;
/** Time a merge may take in `ms`; its size is bounded by the disk's. */
const mergeTimeoutMs = 60 * minute;
/** Time `qemu-storage-daemon` has to answer first in `ms`. */
const startTimeoutMs = 30 * second;
/** Time it has to write out and end in `ms`. */
const quitTimeoutMs = 60 * second;
/** What a layer may hold beside the disk's content in `MiB`: tables. */
const layerOverheadMib = 1_024;

export interface MergeOptions {
  /** Frozen layers, absolute, oldest first */
  readonly layers: readonly string[];
  /** Where the merged layer goes; absolute, must not exist */
  readonly output: string;
  /** Size of the disk in `MiB` */
  readonly sizeMib: number;
  readonly signal?: AbortSignal;
}

let turn: Promise<unknown> = Promise.resolve();

/**
 * Makes one frozen layer that shows over any base what the given ones show over it: what none of them holds stays unheld, what one holds as zeros
 * is held as zeros. Appears under its name complete and durable, or not at all; the layers are only read. Merges take turns.
 *
 * Done by a `qemu-storage-daemon` that is confined like a VMM, because guests have written what it reads. Rejects with `image_damaged` when a layer is not
 * one, `host_disk_full`, or the signal's reason.
 */
export async function mergeLayers(options: MergeOptions): Promise<void> {
  const mine = turn.catch(() => undefined).then(() => merge(options)); // how the one before ended is its caller's matter
  turn = mine.catch(() => undefined);
  return mine;
}

async function merge(options: MergeOptions): Promise<void> {
  const { layers, output, sizeMib } = options;
  assert(layers.length > 0 && [...layers, output].every(isAbsolute), "layers to merge have absolute paths");
  const deadline = AbortSignal.timeout(mergeTimeoutMs);
  const signal = options.signal === undefined ? deadline : AbortSignal.any([options.signal, deadline]);
  signal.throwIfAborted();
  for (const layer of layers) await validateLayer(layer, { sizeMib });

  const merging = `${output}.merging`;
  await using cleanup = new Cleanup();
  cleanup.defer("remove an unfinished layer", () => rm(merging, { force: true }));
  await rm(merging, { force: true }); // left by a crash
  await createLayer({ path: merging, sizeMib, uid: mergeUid, gid: mergeUid });
  await runStream({ layers, merging, sizeMib, signal });
  signal.throwIfAborted();
  await validateLayer(merging, { sizeMib });
  await freezeLayer(merging);
  try {
    await rename(merging, output);
    await syncFolder(dirname(output));
  } catch (error) {
    throw diskError(error);
  }
}

/** A chain of the new layer on the given ones, on something whose content nobody asks for; then the lower ones are copied into the new one. */
async function runStream(options: {
  readonly layers: readonly string[];
  readonly merging: string;
  readonly sizeMib: number;
  readonly signal: AbortSignal;
}): Promise<void> {
  await using cleanup = new Cleanup();
  const folder = await mkdtemp(join(tmpdir(), "roost-merge-"));
  cleanup.defer("remove the folder of the merge", () => rm(folder, { recursive: true, force: true }));
  const runFolder = join(folder, "run");
  await mkdir(runFolder, { mode: 0o700 });
  await chown(runFolder, mergeUid, mergeUid);
  await chmod(folder, 0o711);

  const inside = [...options.layers, options.merging].map((source, index) => ({
    source,
    target: join(insidePaths.disk, String(index)),
    writable: source === options.merging,
  }));
  const command = await confine({
    network: "empty",
    uid: mergeUid,
    gid: mergeUid,
    cgroupProcs: [],
    rootSkeleton: await ensureRootSkeleton(folder, { diskFiles: inside.length }),
    mountTable: join(folder, "mounts"),
    mounts: [{ source: runFolder, target: insidePaths.run, writable: true }, ...inside],
    descriptors: [],
    fileSizeMibMax: options.sizeMib + layerOverheadMib,
    endsWithParent: true,
    command: storageDaemon(inside, options.sizeMib),
  });
  const logPath = join(folder, "log");
  const child = await spawnLogged(command, logPath);
  const ended = new AbortController();
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  void exited.then(() => ended.abort(new Error("qemu-storage-daemon ended")));
  cleanup.defer("end the merge", async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const signal = AbortSignal.any([options.signal, ended.signal]);
  try {
    const qmp = await poll(
      { what: "the first answer of qemu-storage-daemon", timeoutMs: startTimeoutMs, intervalMs: 4, signal },
      async () => {
        await stat(join(runFolder, qmpSocket));
        return QmpClient.connect(join(runFolder, qmpSocket));
      },
    );
    cleanup.defer("close the control connection", () => qmp.close());
    await streamIntoTop(qmp, { top: nodeName(inside.length - 1), base: baseNode, signal });
    await qmp.execute("quit");
    // It writes everything out before it ends
    const code = await poll(
      { what: "the end of qemu-storage-daemon", timeoutMs: quitTimeoutMs, intervalMs: 5 },
      () => child.exitCode ?? undefined,
    );
    if (code !== 0) throw new Error(`qemu-storage-daemon exited with ${code}`);
  } catch (error) {
    options.signal.throwIfAborted();
    const said = (await readFile(logPath, "utf8").catch(() => "")).slice(-1_000).trim();
    throw new Error(`layers could not be merged${said === "" ? "" : `: ${said}`}`, { cause: error });
  }
}

const qmpSocket = "qmp.sock";
const baseNode = "base";
const nodeName = (index: number) => `n${index}`;

function storageDaemon(files: readonly { readonly target: string; readonly writable: boolean }[], sizeMib: number): string[] {
  // Stands for the base image: a block that no layer holds is not copied, so it is never read. It does not promise zeros, so nothing can be
  // left out because it "is zeros below anyway".
  const base = { driver: "null-co", "node-name": baseNode, size: sizeMib * MiB, "read-zeroes": false };
  const nodes = files.map(({ target, writable }, index) => ({
    driver: "qcow2",
    "node-name": nodeName(index),
    discard: "unmap",
    "read-only": !writable,
    file: { driver: "file", filename: target, "read-only": !writable, discard: "unmap" },
    backing: index === 0 ? baseNode : nodeName(index - 1),
  }));
  return [
    "/usr/bin/qemu-storage-daemon",
    ...[base, ...nodes].flatMap((node) => ["--blockdev", JSON.stringify(node)]),
    "--chardev",
    `socket,id=qmp,path=${insidePaths.run}/${qmpSocket},server=on,wait=off`,
    "--monitor",
    "chardev=qmp",
  ];
}

async function spawnLogged(command: readonly [string, ...string[]], logPath: string): Promise<ChildProcess> {
  await using log = await open(logPath, "w", 0o600);
  const [program, ...args] = command;
  const child = spawn(program, args, { stdio: ["ignore", log.fd, log.fd], cwd: "/", env: { PATH: "/usr/sbin:/usr/bin" } });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  must(child.pid, "the pid of a child that was spawned");
  return child;
}
