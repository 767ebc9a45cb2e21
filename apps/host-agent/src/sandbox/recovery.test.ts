import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { guestAgentPort } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { InstanceLockedError } from "../instance-lock.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

async function patchRecord(host: FakeHost, sandboxId: string, patch: Record<string, unknown>): Promise<void> {
  const path = join(host.folder, "state", "sandboxes", sandboxId, "sandbox.json");
  const record = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...record, ...patch }));
}

test("sandboxes run on while the host agent is away, and the next one takes them over", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandbox: before } = await host.client.createSandbox({ spec });
  await host.endAgent();
  expect(host.driver.running).toEqual([spec.sandboxId]);
  await host.startAgent();
  const { sandbox: after } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
  expect(after).toMatchObject({ state: SandboxState.RUNNING, generation: before?.generation, timeStartedMs: before?.timeStartedMs });
  const tunnel = await host.agent.tunnels.connect(spec.sandboxId, guestAgentPort);
  tunnel.destroy();
  expect((await host.client.getHost({})).sandboxCount).toBe(1);
  const other = aSpec();
  await host.client.createSandbox({ spec: other });
  expect(host.network.lent.size, "the adopted sandbox's slot is not lent twice").toBe(2);
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  await host.client.destroySandbox({ sandboxId: other.sandboxId });
  expect(await host.leftovers()).toEqual([]);
});

test("a VM that died meanwhile is failed with how it ended", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandbox: before } = await host.client.createSandbox({ spec });
  await host.endAgent();
  await host.driver.end(spec.sandboxId, { signal: "SIGSEGV" });
  await host.startAgent();
  const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
  expect(sandbox).toMatchObject({
    state: SandboxState.FAILED,
    failureReason: "the VM ended while the host agent was away: its VMM was ended by SIGSEGV",
    vmExit: { signal: "SIGSEGV" },
  });
  expect(sandbox?.generation).toBeGreaterThan(before?.generation ?? 0n);
  expect(await host.leftovers()).toEqual([`folder ${spec.sandboxId}`]);
});

test("a VM that runs but does not answer is ended, and its sandbox failed", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  await host.endAgent();
  host.driver.refuseAdoption(spec.sandboxId);
  await host.startAgent();
  expect((await host.client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.FAILED);
  expect(host.driver.running).toEqual([]);
});

test("a create that was half-way when the host agent was killed is undone and says so", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  await host.endAgent();
  await patchRecord(host, spec.sandboxId, { state: "creating", slot: null, timeStartedMs: null }); // as it was just before the end
  await host.startAgent();
  const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
  expect(sandbox).toMatchObject({ state: SandboxState.FAILED, failureReason: "the host agent ended while the sandbox was being created" });
  expect(await host.leftovers()).toEqual([`folder ${spec.sandboxId}`]);
});

test("stops that were half-way are finished: a deletion forgets, a shutdown is told", async () => {
  await using host = await FakeHost.start();
  const [deleted, shutDown] = [aSpec(), aSpec()];
  await host.client.createSandbox({ spec: deleted });
  await host.client.createSandbox({ spec: shutDown });
  await host.endAgent();
  await patchRecord(host, deleted.sandboxId, { state: "stopping", stopReason: "deleted" });
  await patchRecord(host, shutDown.sandboxId, { state: "stopping", stopReason: "shutdown" });
  await host.startAgent();
  const { sandboxes } = await host.client.listSandboxes({});
  expect(sandboxes).toMatchObject([{ spec: { sandboxId: shutDown.sandboxId }, state: SandboxState.STOPPED, stopReason: "shutdown" }]);
  expect(host.driver.running).toEqual([]);
  expect(host.network.lent.size).toBe(0);
});

test("a create in flight is rolled back by an orderly end, and its caller told to try again", async () => {
  await using host = await FakeHost.start();
  host.driver.hangNextStart();
  const spec = aSpec();
  const creating = host.client.createSandbox({ spec }).catch((error: unknown) => String(error));
  await poll({ what: "the hanging start", timeoutMs: 30_000, intervalMs: 2 }, () => (host.driver.startsHanging === 1 ? true : undefined));
  await host.endAgent();
  expect(await creating).toContain("shutting down");
  await host.startAgent();
  expect((await host.client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.FAILED);
  expect(await host.leftovers()).toEqual([`folder ${spec.sandboxId}`]);
});

test("ending the host agent with its sandboxes leaves none running, and their records say why", async () => {
  await using host = await FakeHost.start();
  for (let count = 0; count < 12; count += 1) await host.client.createSandbox({ spec: aSpec() });
  await host.endAgent({ stopSandboxes: true });
  expect(host.driver.running).toEqual([]);
  expect(host.network.lent.size).toBe(0);
  await host.startAgent();
  const { sandboxes } = await host.client.listSandboxes({});
  expect(new Set(sandboxes.map((sandbox) => `${SandboxState[sandbox.state]} ${sandbox.stopReason}`))).toEqual(
    new Set(["STOPPED shutdown"]),
  );
  expect(sandboxes).toHaveLength(12);
});

test("the inactivity timer continues after a restart, with some grace", async () => {
  await using host = await FakeHost.start({ deps: { times: { adoptionGraceMs: 200 } } });
  const spec = aSpec({ timeoutSec: 3_600 });
  await host.client.createSandbox({ spec });
  await host.endAgent();
  const longAgo = Date.now() - 2 * 3_600_000;
  await patchRecord(host, spec.sandboxId, { timeLastActiveMs: longAgo });
  await writeFile(join(host.folder, "state", "sandboxes", spec.sandboxId, "last-active"), String(longAgo));
  await host.startAgent();
  await poll({ what: "the pause", timeoutMs: 30_000, intervalMs: 10 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
    return sandbox?.state === SandboxState.PAUSED ? true : undefined;
  });
});

test("a record that cannot be read is put aside, not thrown away; a folder without one is removed", async () => {
  await using host = await FakeHost.start();
  const [broken, empty] = [aSpec(), aSpec()];
  await host.client.createSandbox({ spec: broken });
  await host.client.createSandbox({ spec: empty });
  await host.endAgent();
  const folder = join(host.folder, "state", "sandboxes");
  await writeFile(join(folder, broken.sandboxId, "sandbox.json"), '{"formatVersion":1,');
  const { rm, readdir } = await import("node:fs/promises");
  await rm(join(folder, empty.sandboxId, "sandbox.json"));
  await host.startAgent();
  expect(await readdir(folder)).toEqual([]);
  const [aside] = await readdir(join(host.folder, "state", "broken"));
  expect(aside).toMatch(new RegExp(`^${broken.sandboxId}-\\d+$`));
});

test("a second host agent on the same state folder is refused and told who has it", async () => {
  await using host = await FakeHost.start();
  await expect(host.startAgent()).rejects.toThrow(InstanceLockedError);
  await expect(host.startAgent()).rejects.toThrow(`pid ${process.pid}`);
});

test("what happened is told after a restart, also what a crash kept from being told, and a VM that died meanwhile", async () => {
  await using host = await FakeHost.start();
  const [paused, died, deleted] = [aSpec(), aSpec(), aSpec()];
  for (const spec of [paused, died, deleted]) await host.client.createSandbox({ spec });
  await host.client.pauseSandbox({ sandboxId: paused.sandboxId, memory: true });
  await host.client.destroySandbox({ sandboxId: deleted.sandboxId });
  await host.endAgent();
  // As if it had been killed before it could tell of the pause and of the deletion
  const path = join(host.folder, "state", "events.ndjson");
  const lines = (await readFile(path, "utf8")).split("\n");
  await writeFile(path, lines.filter((line) => !/"sandbox\.(paused|stopped)"/.test(line)).join("\n"));
  await host.driver.end(died.sandboxId, { signal: "SIGKILL" });
  await host.startAgent();
  expect(await host.toldOf(paused.sandboxId)).toEqual(["sandbox.created", "sandbox.paused"]);
  expect(await host.toldOf(died.sandboxId)).toEqual(["sandbox.created", "sandbox.vm_lost"]);
  expect(await host.toldOf(deleted.sandboxId)).toEqual(["sandbox.created", "sandbox.stopped"]);
  await host.endAgent();
  await host.startAgent(); // told once
  expect(await host.toldOf(paused.sandboxId)).toEqual(["sandbox.created", "sandbox.paused"]);
});
