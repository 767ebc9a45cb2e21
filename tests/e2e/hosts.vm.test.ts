import { poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { HostsWorld, type WorldHost } from "../support/hosts-world.ts";

/** How long the control plane is away in `s`: long enough for leases to end and for a timer of a sandbox; the soak takes the 90 */
const outageSec = Number(process.env["OUTAGE_SEC"] ?? 8);
/** How long a link is cut in `s` */
const cutSec = Number(process.env["CUT_SEC"] ?? 6);
/** Of a host in `s`; what a test waits for is over soon */
const leaseSec = 4;
const timeoutMs = 120_000;
/** Creates after which each of three hosts has one */
const createsMax = 9;

let world: HostsWorld;
beforeAll(async () => {
  world = await HostsWorld.start(3, { ROOST_HOST_HEARTBEAT_SEC: "1", ROOST_HOST_LEASE_SEC: String(leaseSec) });
});
afterEach(async ({ task }) => {
  if (task.result?.state === "fail") await world.saveEvidence(task.name);
});
afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
});

interface Counting {
  readonly sandbox: SandboxHandle;
  readonly host: WorldHost;
  readonly bootId: string;
}

/** A sandbox in which something goes on that can be told from a new start: its kernel's boot, and a number that grows. */
async function aCountingSandbox(input: Parameters<typeof world.client.sandboxes.create>[0] = {}): Promise<Counting> {
  const { id } = await world.client.sandboxes.create({ timeout_sec: 0, ...input });
  const sandbox = world.client.sandbox(id);
  await sandbox.execBackground("sh", {
    args: ["-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.2; done"],
    tag: "counter",
  });
  return { sandbox, host: await world.hostOf(id), bootId: await bootIdOf(sandbox) };
}

async function bootIdOf(sandbox: SandboxHandle): Promise<string> {
  return (await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout.trim();
}

async function countOf({ id }: SandboxHandle): Promise<number> {
  const count = Number((await world.client.sandbox(id).exec("cat", { args: ["/tmp/count"] })).stdout);
  if (!Number.isSafeInteger(count) || count === 0) throw new Error("it has not counted yet");
  return count;
}

/** What runs in it never stopped: the same boot, and the number has grown by about as much as time has passed. */
async function expectWentOn(counting: Counting, countBefore: number, atLeast: number): Promise<void> {
  const sandbox = world.client.sandbox(counting.sandbox.id);
  const bootId = await poll({ what: "an answer of the sandbox", timeoutMs, intervalMs: 500 }, () => bootIdOf(sandbox));
  expect(bootId).toBe(counting.bootId);
  expect((await world.hostOf(sandbox.id)).name).toBe(counting.host.name);
  await poll({ what: `a count of ${countBefore + atLeast}`, timeoutMs }, async () =>
    (await countOf(sandbox)) >= countBefore + atLeast ? true : undefined,
  );
}

async function untilReachable(host: WorldHost, isReachable: boolean): Promise<void> {
  await poll({ what: `${host.name} to be ${isReachable ? "reachable" : "unreachable"}`, timeoutMs, intervalMs: 200 }, async () =>
    (await world.client.hosts.get(host.id)).is_reachable === isReachable ? true : undefined,
  );
}

async function waitSec(sec: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, sec * 1_000));
}

const counting: Counting[] = [];

test("three hosts register, each with a certificate of its own, and creates are placed over all of them", async () => {
  for (const host of world.hosts) await world.register(host);
  const hosts = await world.client.hosts.list();
  expect(hosts.map(({ name, state, is_reachable: isReachable }) => ({ name, state, isReachable }))).toEqual(
    world.hosts.map(({ name }) => ({ name, state: "ready", isReachable: true })),
  );
  expect(new Set(hosts.map(({ certificate }) => certificate?.fingerprint)).size).toBe(3);

  // One after the other: where it is placed depends on what is there
  const spare: Counting[] = [];
  for (let count = 0; count < createsMax && counting.length < world.hosts.length; count += 1) {
    const made = await aCountingSandbox();
    (counting.some(({ host }) => host === made.host) ? spare : counting).push(made);
  }
  expect(counting.map(({ host }) => host.name).sort(), "hosts that got one").toEqual(world.hosts.map(({ name }) => name));
  for (const { sandbox } of spare) await sandbox.delete();
}, 300_000);

test("no registration token is in a log", async () => {
  for (const output of [world.controlPlaneOutput, ...world.hosts.map((host) => host.output)])
    expect(output).not.toMatch(/[0-9a-f]{64}\.[0-9a-f]{32}/);
});

test("kill -9 of a host agent: its sandboxes go on, nobody is told they stopped, and the next one adopts them", async () => {
  const [one] = counting;
  if (one === undefined) throw new Error("the first test made none");
  const { sandbox, host } = one;
  const before = await countOf(sandbox);
  const vmm = await host.vmmOf(sandbox.id);
  expect(vmm).toBeDefined();
  await host.killHard();
  await untilReachable(host, false);
  expect(await host.vmmOf(sandbox.id)).toBe(vmm);
  expect((await sandbox.get()).state).toBe("running");
  await expect(sandbox.exec("true")).rejects.toMatchObject({ code: "host_unreachable" });

  await host.start(); // without a token: it has its certificate
  await untilReachable(host, true);
  await expectWentOn(one, before, leaseSec * 3);
  expect(await host.vmmOf(sandbox.id)).toBe(vmm);
}, 300_000);

test("a link that is cut and comes back: sandboxes are neither lost nor doubled, and go on meanwhile", async () => {
  const [, two] = counting;
  if (two === undefined) throw new Error("the first test made none");
  const { sandbox, host } = two;
  const before = await countOf(sandbox);
  await host.cutLink();
  await untilReachable(host, false);
  expect((await sandbox.get()).state).toBe("running");
  const elsewhere = await world.client.sandboxes.create({ timeout_sec: 0 });
  expect((await world.hostOf(elsewhere.id)).name).not.toBe(host.name); // none is placed where nobody answers
  await world.client.sandboxes.delete(elsewhere.id);
  await waitSec(cutSec);

  await host.mendLink();
  await untilReachable(host, true);
  await expectWentOn(two, before, cutSec * 3);
  const ids: string[] = [];
  for await (const { id, state } of world.client.sandboxes.list()) if (state === "running") ids.push(id);
  expect(ids.sort()).toEqual(counting.map((each) => each.sandbox.id).sort());
}, 300_000);

test("what is deleted while its host is away is gone when that is back", async () => {
  const { sandbox, host } = await aCountingSandbox();
  await host.cutLink();
  await untilReachable(host, false);
  await sandbox.delete().catch(() => undefined); // it may say that the host cannot be reached: the wish is recorded, or asked again
  await host.mendLink();
  await untilReachable(host, true);
  await poll({ what: "the end of the sandbox on its host", timeoutMs, intervalMs: 500 }, async () => {
    if (!(await host.has(sandbox.id))) return true;
    await sandbox.delete();
    return undefined;
  });
}, 300_000);

test("the control plane is away: commands in guests and their timers go on, and all is found again", async () => {
  const timed = await world.client.sandboxes.create({ timeout_sec: 3 });
  const timedHost = await world.hostOf(timed.id);
  const before = await Promise.all(counting.map(({ sandbox }) => countOf(sandbox)));
  await world.killControlPlane();
  await waitSec(outageSec);
  // Inactivity is the host's to notice: its VM is gone although nobody could be told
  await poll({ what: "the timeout of a sandbox", timeoutMs, intervalMs: 200 }, async () =>
    (await timedHost.vmmOf(timed.id)) === undefined ? true : undefined,
  );
  await world.startControlPlane();
  for (const host of world.hosts) await untilReachable(host, true);
  for (const [index, each] of counting.entries()) await expectWentOn(each, before[index] ?? 0, outageSec * 3);
  await poll({ what: "what became of the timed sandbox", timeoutMs, intervalMs: 200 }, async () =>
    (await world.client.sandboxes.get(timed.id)).state === "running" ? undefined : true,
  );
  await world.client.sandboxes.delete(timed.id); // it is paused: on a host that is deleted later it would stay
}, 600_000);

test("a host agent that starts while the control plane is away adopts its sandboxes all the same", async () => {
  const [, , three] = counting;
  if (three === undefined) throw new Error("the first test made none");
  const before = await countOf(three.sandbox);
  await world.killControlPlane();
  expect(await three.host.stop()).toBe(0);
  await three.host.start({ isControlPlaneAway: true });
  await world.startControlPlane();
  await untilReachable(three.host, true);
  await expectWentOn(three, before, 5);
}, 300_000);

test("draining a host pauses what runs there, and gives it nothing new", async () => {
  const [one] = counting;
  if (one === undefined) throw new Error("the first test made none");
  const { host } = one;
  const sandbox = world.client.sandbox(one.sandbox.id); // the API has another port since it was made
  await world.client.hosts.drain(host.id);
  await poll({ what: "the end of the drain", timeoutMs, intervalMs: 200 }, async () =>
    (await world.client.hosts.get(host.id)).drain?.time_done == null ? undefined : true,
  );
  expect((await sandbox.get()).state).toBe("paused");
  expect(await host.vmmOf(sandbox.id)).toBeUndefined();
  const { id } = await world.client.sandboxes.create({ timeout_sec: 0 });
  expect((await world.hostOf(id)).name).not.toBe(host.name);
  await world.client.sandboxes.delete(id);

  await world.client.hosts.uncordon(host.id);
  await sandbox.resume();
  await expectWentOn(one, 1, 1);
}, 300_000);

test("a deleted host is told so: it takes no new work, keeps what it has, and says what to do", async () => {
  const [, two] = counting;
  if (two === undefined) throw new Error("the first test made none");
  const { sandbox, host } = two;
  await expect(world.client.hosts.delete(host.id)).rejects.toMatchObject({ code: "host_has_sandboxes" });
  await host.cutLink(); // else its sandboxes are ended first
  await untilReachable(host, false);
  await world.client.hosts.delete(host.id, { force: true });
  await host.mendLink();
  await poll({ what: "the host agent's words", timeoutMs, intervalMs: 200 }, () =>
    host.output.includes("this host was deleted from its control plane") ? true : undefined,
  );
  expect(await host.vmmOf(sandbox.id)).toBeDefined();
  expect((await world.client.sandboxes.get(sandbox.id)).state).toBe("stopped"); // as far as the platform is concerned

  expect(await host.stop()).toBe(0);
  expect(await host.vmmOf(sandbox.id)).toBeDefined();
  await host.start({ isControlPlaneAway: true, settings: { ROOST_STOP_SANDBOXES: "true" } }); // its operator ends it
  expect(await host.stop()).toBe(0);
  expect(await host.vmmOf(sandbox.id)).toBeUndefined();
}, 300_000);

test("draining a host by moving: what ran goes on at another host where it was, what was saved can, and the host can be deleted", async () => {
  const [one] = counting;
  if (one === undefined) throw new Error("the first test made none");
  const { host, bootId } = one;
  const sandbox = world.client.sandbox(one.sandbox.id);
  const sum = (handle: SandboxHandle) =>
    handle.exec("sha256sum", { args: ["/root/data"], user: "root" }).then(({ stdout }) => stdout.trim());
  await sandbox.exec("sh", { args: ["-c", "head -c 3000000 /dev/urandom > /root/data; sync"], user: "root" });
  const data = await sum(sandbox);
  const [forked] = await sandbox.fork(1);
  if (forked === undefined || !("sandbox" in forked)) throw new Error("it could not be forked");
  const child = world.client.sandbox(forked.sandbox.id);
  expect((await world.hostOf(child.id)).name).toBe(host.name);
  await child.pause();
  const before = await countOf(sandbox);

  await world.client.hosts.drain(host.id, { mode: "move" });
  // A request meanwhile waits, or is told to come again: the sandbox is never gone
  const counts: number[] = [];
  await poll({ what: "the end of the drain", timeoutMs: 300_000, intervalMs: 500 }, async () => {
    await countOf(sandbox).then(
      (count) => counts.push(count),
      (error: unknown) => expect(String(error)).not.toContain("not_found"),
    );
    const { drain } = await world.client.hosts.get(host.id);
    return drain?.time_done == null ? undefined : true;
  });
  expect(counts).toEqual(counts.toSorted((a, b) => a - b));
  for (const { id } of [sandbox, child]) {
    expect((await world.hostOf(id)).name).not.toBe(host.name);
    expect(await host.has(id)).toBe(false);
    expect(await host.vmmOf(id)).toBeUndefined();
  }
  expect((await sandbox.get()).state).toBe("running");
  expect(await bootIdOf(sandbox)).toBe(bootId);
  expect(await sum(sandbox)).toBe(data);
  const now = await countOf(sandbox);
  expect(now).toBeGreaterThanOrEqual(before);
  await poll({ what: "that it counts on", timeoutMs }, async () => ((await countOf(sandbox)) > now ? true : undefined));
  expect((await child.get()).state).toBe("paused");
  await child.resume();
  expect(await bootIdOf(child)).toBe(bootId);
  expect(await sum(child)).toBe(data);

  expect(await world.client.hosts.previewDeletion(host.id)).toMatchObject({ sandbox_count: 0 });
  await world.client.hosts.delete(host.id);
}, 600_000);
