import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { describe, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { hostError } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";

/** Time stands still but for `pass`: what is due is a matter of the clock, never of how fast a test runs. */

let database: Database;
let world: ServiceWorld;
let time: number;
const now = () => new Date(time);
const pass = (ms: number) => (time += ms);
eachServiceWorld((fresh, opened) => {
  time = Date.now();
  world = fresh;
  database = opened;
}, now);

const make = async (...asked: Parameters<ServiceWorld["createExpiring"]>) => world.createExpiring(...asked);
const row = async (id: string) => world.sandboxes.records.recorded(own(id));
const seen = async (id: string) => world.sandboxes.get(own(id));
const secondsLeft = async (id: string) => {
  const { time_expires: end } = await row(id);
  return end === null ? null : (end.getTime() - time) / 1000;
};
const kinds = () => world.told.map(({ kind }) => kind).filter((kind) => kind === "sandbox.expired" || kind === "sandbox.pause_failed");

/** One look, and everything it began. */
async function look(sandboxes = world.sandboxes): Promise<number> {
  const waitMs = await sandboxes.expiry.look();
  await sandboxes.expiry.settled();
  return waitMs;
}

describe("an end", () => {
  test("is counted from the start, and comes to the millisecond", async () => {
    const { id } = await make(60);
    expect(await secondsLeft(id)).toBe(60);
    pass(59_999);
    expect(await look()).toBe(1);
    expect((await seen(id)).state).toBe("running");
    pass(1);
    await look();
    expect(await row(id)).toMatchObject({ state: "stopped", time_expires: null });
    expect(world.host.destroyed).toEqual([id]);
    expect(world.told).toMatchObject([{ kind: "sandbox.expired", sandboxId: id, detail: { action: "delete" } }]);
  });

  test("is seen by all before anybody has carried it out", async () => {
    const { id } = await make(60);
    const paused = await make(60, { expiryAction: "pause" });
    pass(60_000);
    expect((await seen(id)).state).toBe("stopping");
    expect((await seen(paused.id)).state).toBe("pausing");
    expect(await codeOf(world.sandboxes.getUsable(own(id)))).toBe("sandbox_wrong_state");
    expect(await codeOf(world.sandboxes.getUsable(own(paused.id)))).toBe("sandbox_wrong_state");
    expect(await codeOf(world.sandboxes.connects.present(own(id)))).toBe("sandbox_not_found");
    expect(await codeOf(world.sandboxes.kill(own(id)))).toBe("sandbox_not_found");
    const listed = await world.sandboxes.listPresent({ teamId: firstTeam, order: "desc", limit: 10 });
    expect(listed.sandboxes).toMatchObject([{ id: paused.id, state: "pausing" }]);
    expect(await world.sandboxes.countRunning({ teamId: firstTeam })).toBe(0);
    expect((await row(id)).state).toBe("running");
  });

  test("is not there without one", async () => {
    const { id } = await world.create();
    expect(await row(id)).toMatchObject({ expiry_sec: 0, time_expires: null });
    pass(1e12);
    await look();
    expect((await seen(id)).state).toBe("running");
  });

  test("of many at once comes for all", async () => {
    const made = await Promise.all(Array.from({ length: 40 }, async () => make(5)));
    pass(5_000);
    await look();
    expect(world.host.destroyed.sort()).toEqual(made.map(({ id }) => id).sort());
  });

  test("ends connections at once, though the host is away, and is carried out when it is back", async () => {
    const { id } = await make(5);
    pass(5_000);
    world.host.isUnreachable = true;
    await look();
    expect(world.ended).toContain(id);
    expect((await seen(id)).state).toBe("stopping");
    expect(await row(id)).toMatchObject({ state: "running", time_delete_requested: now() }); // what the reconciler goes by
    world.host.isUnreachable = false;
  });

  test("survives the control plane: the next one looks into the table", async () => {
    const { id } = await make(60);
    const paused = await make(60, { expiryAction: "pause" });
    pass(61_000);
    await look(world.another(database, now));
    expect((await row(id)).state).toBe("stopped");
    await world.isState(paused.id, "paused");
  });

  test("is carried out once by two control planes", async () => {
    const { id } = await make(60);
    pass(60_000);
    await Promise.all([look(), look(world.another(database, now))]);
    expect(world.host.destroyed).toEqual([id]);
    expect(kinds()).toEqual(["sandbox.expired"]);
  });

  test("comes by itself, and an earlier one wakes the loop", async () => {
    const real = world.another(database, () => new Date());
    const abort = new AbortController();
    const running = real.expiry.run(abort.signal);
    const { id } = await make(3600);
    await real.connects.setExpiry(own(id), 1);
    await poll({ what: "the end", timeoutMs: 30_000, intervalMs: 5 }, async () => ((await row(id)).state === "stopped" ? true : undefined));
    abort.abort();
    await running;
  });
});

describe("a pause when time is up", () => {
  test("saves what it should, and takes the end away", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    const bare = await make(60, { expiryAction: "pause", expiryMemory: false });
    pass(60_000);
    await look();
    expect(await row(id)).toMatchObject({ state: "paused", time_expires: null, has_memory: true, expiry_sec: 60 });
    expect(await row(bare.id)).toMatchObject({ state: "paused", time_expires: null, has_memory: false });
    expect(kinds()).toEqual(["sandbox.expired", "sandbox.expired"]);
    pass(1e9);
    await look();
    expect((await row(id)).state).toBe("paused");
  });

  test("that fails leaves it running, says so, and is tried again, later each time", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    pass(60_000);
    for (const waitSec of [1, 2, 4]) {
      world.host.images.failures.set("pauseSandbox", hostError("sandbox_pause_failed", "no room"));
      await look();
      expect(await secondsLeft(id)).toBe(waitSec);
      await world.isState(id, "running");
      pass(waitSec * 1000);
    }
    expect(kinds()).toEqual(["sandbox.pause_failed", "sandbox.pause_failed", "sandbox.pause_failed"]);
    expect(world.told.at(-1)).toMatchObject({ message: expect.stringContaining("no room"), detail: { retry_at: now().toISOString() } });
    await look();
    expect((await row(id)).state).toBe("paused");
  });

  test("that failed often means nothing once somebody else has paused the sandbox", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    const fail = async () => {
      world.host.images.failures.set("pauseSandbox", hostError("sandbox_pause_failed", "no room"));
      await look();
      await world.isState(id, "running");
      return secondsLeft(id);
    };
    pass(60_000);
    expect(await fail()).toBe(1);
    pass(1_000);
    expect(await fail()).toBe(2);
    await world.sandboxes.lifecycle.pause(own(id), { memory: true });
    await world.sandboxes.lifecycle.resume(own(id), { memory: true });
    pass(60_000);
    expect(await fail()).toBe(1);
  });

  test("that failed does not disturb who extends it", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    pass(60_000);
    world.host.images.failures.set("pauseSandbox", hostError("sandbox_pause_failed", "no room"));
    await look();
    await world.sandboxes.connects.connect(own(id), { sec: 600, memory: true });
    pass(599_000);
    await look();
    expect((await seen(id)).state).toBe("running");
  });

  test("because the host is away makes no noise", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    pass(60_000);
    world.host.isUnreachable = true;
    await look();
    world.host.isUnreachable = false;
    expect(kinds()).toEqual([]);
    pass(1_000);
    await look();
    expect((await row(id)).state).toBe("paused");
  });

  test("does not hold up the end of another, however long it takes, and not more than 16 at once", async () => {
    const saved = await Promise.all(Array.from({ length: 20 }, () => make(60, { expiryAction: "pause" })));
    const { id } = await make(61);
    const release = world.hold("pauseSandbox");
    pass(60_000);
    await world.sandboxes.expiry.look();
    const begun = () => world.host.images.calls.get("pauseSandbox") ?? 0;
    await poll({ what: "the pauses", timeoutMs: 30_000, intervalMs: 2 }, () => (begun() === 16 ? true : undefined));
    pass(1_000);
    await world.sandboxes.expiry.look();
    await world.isState(id, "stopped");
    expect(begun()).toBe(16);
    release();
    await world.sandboxes.expiry.settled();
    for (const each of saved) expect((await row(each.id)).state).toBe("paused");
  });

  test("waits for a snapshot under way", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    const release = world.hold("checkpointSandbox");
    const saving = world.sandboxes.lifecycle.checkpoint(own(id));
    await world.isState(id, "snapshotting");
    pass(60_000);
    const looking = look();
    await new Promise((resolve) => setImmediate(resolve));
    release();
    await Promise.all([saving, looking]);
    expect((await row(id)).state).toBe("paused");
    expect(kinds()).toEqual(["sandbox.expired"]);
  });

  test.each([120, 30])("is waited for by who connects just then, and resumed from with the time that was asked for: %s s", async (sec) => {
    const { id } = await make(60, { expiryAction: "pause" });
    pass(60_000);
    const connecting = world.sandboxes.connects.connect(own(id), { sec, memory: true, action: "delete" });
    await look();
    expect(await connecting).toMatchObject({ isResumed: true, row: { id, state: "running", expiry_action: "delete" } });
    expect(await secondsLeft(id)).toBe(sec);
    expect(world.host.destroyed).toEqual([]);
  });
});

describe("a pause that somebody asks for", () => {
  test("stops the time, and a resume counts it anew", async () => {
    const { id } = await make(60);
    pass(59_000);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    expect(await row(id)).toMatchObject({ state: "paused", time_expires: null });
    pass(1e9);
    await look();
    expect((await row(id)).state).toBe("paused");
    await world.sandboxes.lifecycle.resume(own(id), { memory: true });
    expect(await secondsLeft(id)).toBe(60);
  });

  test("is not overtaken by the end of its time", async () => {
    const { id } = await make(60);
    const release = world.hold("pauseSandbox");
    const pausing = world.sandboxes.pauseRunning(own(id), { memory: true });
    await world.isState(id, "pausing");
    pass(60_000);
    await look();
    release();
    await pausing;
    expect((await row(id)).state).toBe("paused");
    expect(world.host.destroyed).toEqual([]);
  });

  test("of a paused one is refused, and so is one of an ended one", async () => {
    const { id } = await make(60);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    expect(await codeOf(world.sandboxes.pauseRunning(own(id), { memory: true }))).toBe("sandbox_wrong_state");
    await world.sandboxes.kill(own(id));
    expect(await codeOf(world.sandboxes.pauseRunning(own(id), { memory: true }))).toBe("sandbox_not_found");
  });
});

test("a request that wakes a sandbox gives it what it had, but five minutes at least", async () => {
  for (const [sec, expected] of [
    [60, 300],
    [900, 900],
  ] as const) {
    const { id } = await make(sec, { expiryAction: "pause" }, { auto_resume: true });
    pass(sec * 1000);
    await look();
    expect((await world.sandboxes.getUsable(own(id))).state).toBe("running");
    expect(await secondsLeft(id)).toBe(expected);
    expect((await row(id)).expiry_sec).toBe(sec);
  }
});

test("children of a fork have what the parent has, and time of their own", async () => {
  const parent = await make(60, { expiryAction: "pause", isSecure: false });
  pass(30_000);
  const children = await world.sandboxes.fork(own(parent.id), { count: 2 }, new AbortController().signal, { expirySec: 500 });
  for (const child of children) {
    expect("row" in child && child.row).toMatchObject({ expiry_sec: 500, expiry_action: "pause", is_secure: false });
    expect("row" in child && (child.row.time_expires?.getTime() ?? 0) - time).toBe(500_000);
  }
  expect(await secondsLeft(parent.id)).toBe(30);
});

test("a host that loses a sandbox takes its end with it, and brings it anew", async () => {
  const { id } = await make(60);
  world.host.images.pause(id);
  await world.isState(id, "paused");
  expect((await row(id)).time_expires).toBeNull();
  pass(10_000);
  world.host.change(id, SandboxState.RUNNING);
  await world.isState(id, "running");
  expect(await secondsLeft(id)).toBe(60);
});

describe("a kill", () => {
  test("is seen at once, and done once", async () => {
    const { id } = await make(60);
    const outcomes = await Promise.all([codeOf(world.sandboxes.kill(own(id))), codeOf(world.sandboxes.kill(own(id)))]);
    expect(outcomes.sort()).toEqual(["none", "sandbox_not_found"]);
    expect(world.host.destroyed).toEqual([id]);
    expect((await row(id)).state).toBe("stopped");
  });

  test("is acknowledged though the host is away", async () => {
    const { id } = await make(60);
    world.host.isUnreachable = true;
    await world.sandboxes.kill(own(id));
    expect((await seen(id)).state).toBe("stopping");
    expect(await codeOf(world.sandboxes.connects.connect(own(id), { sec: 60, memory: true }))).toBe("sandbox_not_found");
    world.host.isUnreachable = false;
  });
});
