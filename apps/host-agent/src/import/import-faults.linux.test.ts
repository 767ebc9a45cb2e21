import { execFile } from "node:child_process";
import { createCipheriv } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Cleanup, poll, run } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { bundleChild } from "../testing/bundle-child.ts";
import type { ImportSource } from "./importer.ts";
import { openImporter } from "./testing/open-importer.ts";
import { gzipLayer, plainLayer, rawTar, writeLayout, zstdLayer } from "./testing/oci.ts";
import { push, startRegistry } from "./testing/registry-server.ts";

/** Imports that are killed, and imports on a disk that is full: nothing is left of them but what the next one may use. */

/** Unprivileged, and nobody's */
const uid = 1_879_113_728;
/** Kills at any moment, besides those at each report of progress */
const kills = 6;

let scratch: string;
let child: string;
let reference: string;
const afterwards = new Cleanup();

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-import-faults-"));
  afterwards.defer("remove the files", () => rm(scratch, { recursive: true, force: true }));
  const registry = await startRegistry(join(scratch, "registry"));
  afterwards.defer("end the registry", () => registry.close());
  child = await bundleChild(join(import.meta.dirname, "testing/import-child.ts"), join(scratch, "import-child.mjs"));
  /** Cannot be compressed, and is the same each time */
  const noise = (bytes: number) => createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(bytes));
  const layers = [
    gzipLayer(rawTar([{ name: "first", data: noise(4 * 1024 * 1024) }])),
    await zstdLayer(rawTar([{ name: "second", data: noise(4 * 1024 * 1024) }]), scratch),
    plainLayer(rawTar([{ name: "third", data: "the last one" }])),
  ];
  reference = `${registry.host}/test/faults:latest`;
  await writeLayout(join(scratch, "layout"), { layers, config: {} });
  await push(join(scratch, "layout"), reference);
}, 120_000);

afterAll(() => afterwards.run());

let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(join(scratch, "state-"));
});

const importer = async () => openImporter(stateDir, { uid });

/** Imports in a process that kills itself at a report, or is killed after `ms`. How many reports there were; undefined: it was killed. */
async function importKilled(index: number, ms = 0): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const program = execFile(process.execPath, [child, stateDir, reference, String(uid), String(index)], (error, stdout, stderr) => {
      clearTimeout(timer);
      if (error === null) resolve(Number(stdout));
      else if (error.signal === "SIGKILL") resolve(undefined);
      else reject(new Error(`the import failed: ${stderr}`));
    });
    const timer = ms === 0 ? undefined : setTimeout(() => program.kill("SIGKILL"), ms);
  });
}

/** What a program of an import left running ends by itself: it has lost its parent. */
async function untilNothingRuns(): Promise<void> {
  await poll({ what: "the end of the import's programs", timeoutMs: 10_000, intervalMs: 20 }, async () => {
    const { length } = (await run(["sh", "-c", `ps -o pid= -u ${uid} || true`])).trim();
    return length === 0 ? true : undefined;
  });
}

async function expectWhole(): Promise<void> {
  const made = await importer();
  const source: ImportSource = { kind: "registry", reference, credentials: { username: "", password: "", token: "" } };
  const { image } = await made.import({ source, diskSizeMib: 256, refresh: false }, new AbortController().signal, () => undefined);
  await run(["e2fsck", "-f", "-n", image.path]);
  const listed = await run(["debugfs", "-R", "cat /third", image.path]);
  expect(listed).toBe("the last one");
  await made.close();
  expect(await readdir(join(stateDir, "import-cache"))).toEqual(["blobs"]);
  expect(await readdir(join(stateDir, "imported"))).toEqual([image.record.name]);
  expect((await readFile("/proc/self/mountinfo", "utf8")).includes(`${stateDir}/`), "mounts are in namespaces of their own").toBe(false);
}

test("an import that is killed at any step leaves nothing half done, and the next one makes the same image", async () => {
  let wholeMs = performance.now();
  const reports = (await importKilled(-1)) ?? 0;
  wholeMs = performance.now() - wholeMs;
  expect(reports).toBeGreaterThan(5);
  for (let index = 0; index < reports; index += 1) {
    await rm(stateDir, { recursive: true });
    await mkdir(stateDir);
    if ((await importKilled(index)) !== undefined) continue; // this time it said less of how far it was
    await untilNothingRuns();
    await expectWhole();
  }
  for (let kill = 1; kill <= kills; kill += 1) {
    await rm(stateDir, { recursive: true });
    await mkdir(stateDir);
    await importKilled(-1, (wholeMs * kill) / (kills + 1));
    await untilNothingRuns();
    await expectWhole();
  }
});

test("an import on a disk that is full says so, whenever that happens, and leaves nothing; with more room it goes through", async () => {
  const source: ImportSource = { kind: "registry", reference, credentials: { username: "", password: "", token: "" } };
  let refused = 0;
  for (let sizeMib = 1, isThere = false; !isThere; sizeMib += 3) {
    await run(["mount", "-t", "tmpfs", "-o", `size=${sizeMib}m,mode=0755`, "tmpfs", stateDir]);
    try {
      const made = await importer();
      const importing = made.import({ source, diskSizeMib: 256, refresh: false }, new AbortController().signal, () => undefined);
      const failure: unknown = await importing.then(
        () => undefined,
        (error: unknown) => error,
      );
      isThere = failure === undefined;
      if (!isThere) {
        refused += 1;
        expect(failure, `${sizeMib} MiB`).toMatchObject({ code: "host_disk_full" });
        expect(await readdir(join(stateDir, "imported"))).toEqual([]);
        expect((await readdir(join(stateDir, "import-cache"))).filter((name) => name !== "blobs")).toEqual([]);
        await untilNothingRuns();
      }
      await made.close();
      await run(["mount", "-o", "remount,size=256m", stateDir]);
      await expectWhole();
    } finally {
      await run(["umount", stateDir]);
    }
  }
  expect(refused, "sizes at which different steps found the disk full").toBeGreaterThan(3);
});
