/**
 * `npm run bench`: what Roost costs, on this machine, now. `-- --json FILE` writes the rows, `-- --quick` takes fewer samples.
 *
 * Everything goes through the public API of a platform of its own (own folder, own port), so an installed one is left alone.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { cpus, totalmem } from "node:os";
import { parseArgs, promisify } from "node:util";

import { must, sleep } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";

import { findVmm } from "../support/find-vmm.ts";
import { TestPlatform } from "../support/test-platform.ts";
import { printRow, row, rowHeader, type Row } from "./report.ts";
import { cpuMs, pssMib } from "./vmm-usage.ts";

const { values: flags } = parseArgs({ options: { json: { type: "string" }, quick: { type: "boolean", default: false } } });
const samples = (full: number) => (flags.quick ? Math.max(2, Math.round(full / 5)) : full);

/** Payload of one transfer in `bytes`. */
const transferBytes = 50_000_000;
/** How long idle CPU is measured in `ms`: /proc counts in 10 ms steps. */
const idleWindowMs = 20_000;
/** Time after its last command in which a guest settles in `ms`: caches are written back, heaps shrink. */
const settleMs = 10_000;

const rows: Row[] = [];
function report(result: Row): void {
  rows.push(result);
  printRow(result);
}

const platform = await TestPlatform.start();
try {
  const [host] = await platform.client.hosts();
  process.stdout.write(
    `${cpus().length} cores (${cpus()[0]?.model}), ${Math.round(totalmem() / 2 ** 30)} GiB; ${host?.vmm_version}, accelerator ${host?.accelerator}, guest kernel ${host?.kernel_version}\n${rowHeader}\n\n`,
  );
  await benchBoot();
  const sandbox = await platform.sandbox({ timeout_sec: 0 });
  await benchExec(sandbox);
  await benchTransfer(sandbox);
  await sandbox.delete();
  await benchIdle();
} finally {
  await platform[Symbol.asyncDispose]();
}
if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify(rows, null, 2)}\n`);

/** From the request to the first command's output; and the first command alone. */
async function benchBoot(): Promise<void> {
  const toOutput: number[] = [];
  const firstExec: number[] = [];
  for (let count = samples(10); count > 0; count -= 1) {
    const start = performance.now();
    const sandbox = await platform.sandbox();
    const ready = performance.now();
    await sandbox.exec("true");
    toOutput.push(performance.now() - start);
    firstExec.push(performance.now() - ready);
    await sandbox.delete();
  }
  report(row("cold boot: create to first command's output", "ms", toOutput));
  report(row("exec of true, the first in a sandbox", "ms", firstExec));
}

async function benchExec(sandbox: SandboxHandle): Promise<void> {
  const onHost = promisify(execFile);
  for (let count = 20; count > 0; count -= 1) await sandbox.exec("true");
  const warm: number[] = [];
  const host: number[] = [];
  for (let count = samples(200); count > 0; count -= 1) {
    warm.push(await timed(() => sandbox.exec("true")));
    host.push(await timed(() => onHost("true")));
  }
  report(row("exec of true, warm (baseline: the same on the host)", "ms", warm, host));
}

async function benchTransfer(sandbox: SandboxHandle): Promise<void> {
  const payload = randomBytes(transferBytes);
  const up: number[] = [];
  const down: number[] = [];
  const megabytes = transferBytes / 1e6;
  for (let count = samples(5); count > 0; count -= 1) {
    up.push(megabytes / ((await timed(() => sandbox.files.write("/tmp/payload", payload))) / 1000));
    down.push(megabytes / ((await timed(() => sandbox.files.readBytes("/tmp/payload"))) / 1000));
  }
  report(row("upload of 50 MB of random bytes", "MB/s", up));
  report(row("download of 50 MB of random bytes", "MB/s", down));
}

/** Memory and CPU of sandboxes that did one thing and then nothing. */
async function benchIdle(): Promise<void> {
  const vmms: number[] = [];
  const made: SandboxHandle[] = [];
  for (let count = samples(5); count > 0; count -= 1) {
    const sandbox = await platform.sandbox({ timeout_sec: 0 });
    await sandbox.exec("true");
    made.push(sandbox);
    vmms.push(must(await findVmm(platform.folder, sandbox.id), "the VMM of a running sandbox"));
  }
  await sleep(settleMs);
  const before = await Promise.all(vmms.map(cpuMs));
  const start = performance.now();
  await sleep(idleWindowMs);
  const elapsedSec = (performance.now() - start) / 1000;
  const after = await Promise.all(vmms.map(cpuMs));
  report(row("memory of an idle 512 MiB sandbox (PSS of its VMM)", "MiB", await Promise.all(vmms.map(pssMib))));
  report(
    row(
      "CPU of an idle sandbox, per second",
      "ms",
      after.map((total, index) => (total - (before[index] ?? 0)) / elapsedSec),
    ),
  );
  for (const sandbox of made) await sandbox.delete();
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
