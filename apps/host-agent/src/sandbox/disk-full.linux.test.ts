import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { newSandboxId, newToken } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { KiB, must, run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

// On a file system of a few MiB that is really full: no fake of ENOSPC
let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-full-"));
  await run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=8m", "roost-full", folder]);
});
afterEach(async () => {
  await run(["/usr/bin/umount", "--lazy", folder]); // a fake VM keeps its base file open, as a mapping would
  await rm(folder, { recursive: true, force: true });
});

/** Leaves `leftKib` KiB on the file system. */
async function fill(leftKib: number): Promise<() => Promise<void>> {
  const path = join(folder, "filler");
  for (let size = 8 * 1024; size > 0; size -= 64) {
    const isWritten = await writeFile(path, Buffer.alloc(size * KiB)).then(
      () => true,
      () => false,
    );
    if (!isWritten) continue;
    await writeFile(path, Buffer.alloc((size - leftKib) * KiB));
    return () => rm(path);
  }
  throw new Error("nothing could be written at all");
}

test("a full disk: pause, checkpoint, fork and snapshot are refused, the sandbox goes on, and all work when there is room again", async () => {
  const own = join(folder, "host");
  await mkdir(own);
  await using host = await FakeHost.start({ folder: own });
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  must(host.guests.get(sandboxId), "its guest").knowledge = { answer: 42, padding: "x".repeat(1_000 * KiB) };
  const empty = await fill(256);
  const child = { sandboxId: newSandboxId(), accessToken: newToken(), envs: {} };
  const attempts = {
    pause: () => host.client.pauseSandbox({ sandboxId }),
    checkpoint: () => host.client.checkpointSandbox({ sandboxId }),
    snapshot: () => host.client.createTemplate({ sandboxId, name: "full" }),
    fork: () => host.client.forkSandbox({ sandboxId, children: [child] }),
  };
  for (const [name, attempt] of Object.entries(attempts)) {
    expect(await failureOf(attempt()), name).toMatchObject({ code: "host_disk_full" });
    expect((await host.client.getSandbox({ sandboxId })).sandbox?.state, name).toBe(SandboxState.RUNNING);
    expect(host.driver.stopped, name).toEqual([]);
  }
  expect((await host.client.listTemplates({})).templates.map(({ name }) => name)).toEqual(["base"]);
  await empty();

  for (const attempt of [attempts.checkpoint, attempts.snapshot, attempts.fork, attempts.pause]) await attempt();
  await host.client.resumeSandbox({ sandboxId });
  expect(host.guests.get(sandboxId)?.knowledge["answer"]).toBe(42);
  for (const id of [sandboxId, child.sandboxId]) await host.client.destroySandbox({ sandboxId: id });
  await host.client.deleteTemplate({ name: "full" });
  expect(await host.leftovers()).toEqual([]);
});
