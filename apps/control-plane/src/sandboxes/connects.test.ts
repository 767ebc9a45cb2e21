import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { codeOf } from "../testing/code-of.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import type { Connects } from "./connects.ts";

let world: ServiceWorld;
let connects: Connects;
let time: number;
eachServiceWorld(
  (fresh) => {
    time = Date.now();
    world = fresh;
    connects = world.sandboxes.connects;
  },
  () => new Date(time),
);

const make = async (...asked: Parameters<ServiceWorld["createExpiring"]>) => world.createExpiring(...asked);
const row = async (id: string) => world.sandboxes.records.recorded(own(id));
const endOf = async (id: string) => (await row(id)).time_expires?.getTime();
const connect = async (id: string, sec: number) => connects.connect(own(id), { sec, memory: true });

describe("connect", () => {
  test.each([
    { had: 300, passed: 100, asked: 100, has: 300 },
    { had: 300, passed: 100, asked: 200, has: 300 },
    { had: 300, passed: 100, asked: 201, has: 301 },
    { had: 300, passed: 299, asked: 1, has: 300 },
    { had: 300, passed: 0, asked: 3600, has: 3600 },
  ])("of $had s, $passed s gone, with $asked s: $has s after the start", async ({ had, passed, asked, has }) => {
    const start = time;
    const { id } = await make(had);
    time += passed * 1000;
    const { row: connected, isResumed } = await connect(id, asked);
    expect(isResumed).toBe(false);
    expect(connected.time_expires?.getTime()).toBe(start + has * 1000);
    expect(await endOf(id)).toBe(start + has * 1000);
  });

  test("resumes a paused one, whose time is then what was asked, also where that is less", async () => {
    const { id, access_token: token } = await make(3600);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    time += 1e9;
    const connected = await connect(id, 60);
    expect(connected).toMatchObject({ isResumed: true, row: { state: "running", access_token: token, start_path: "restore" } });
    expect(await endOf(id)).toBe(time + 60_000);
  });

  test("boots a paused one from its disk when asked to", async () => {
    const { id } = await make(3600);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    expect(await connects.connect(own(id), { sec: 60, memory: false })).toMatchObject({ isResumed: true, row: { start_path: "boot" } });
  });

  test("of many at once resumes once, and each has what it asked for", async () => {
    const { id } = await make(3600);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    const release = world.hold("resumeSandbox");
    const asked = [30, 600, 60];
    const connecting = Promise.all(asked.map(async (sec) => connect(id, sec)));
    await world.isState(id, "resuming");
    release();
    for (const [index, connected] of (await connecting).entries()) {
      expect(connected.row.time_expires?.getTime()).toBeGreaterThanOrEqual(time + (asked[index] ?? 0) * 1000);
    }
    expect(await endOf(id)).toBe(time + 600_000);
  });

  test("waits for a pause under way", async () => {
    const { id } = await make(3600);
    const release = world.hold("pauseSandbox");
    const pausing = world.sandboxes.pauseRunning(own(id), { memory: true });
    await world.isState(id, "pausing");
    const connecting = connect(id, 60);
    release();
    await pausing;
    expect(await connecting).toMatchObject({ isResumed: true });
  });

  test("leaves what happens when time is up to one that turns out not to be paused", async () => {
    const { id } = await make(60, { expiryAction: "pause" });
    world.host.change(id, SandboxState.PAUSING);
    await world.isState(id, "pausing");
    const resuming = connects.resume(own(id), { sec: 90, memory: true, action: "delete" });
    world.host.change(id, SandboxState.RUNNING);
    expect(await resuming).toMatchObject({ state: "running", expiry_action: "pause" });
    expect(await endOf(id)).toBe(time + 90_000);
  });

  test("gives a paused one of which a snapshot is just made the time that was asked for", async () => {
    const { id } = await make(3600);
    await world.sandboxes.pauseRunning(own(id), { memory: true });
    world.host.change(id, SandboxState.SNAPSHOTTING);
    await world.isState(id, "snapshotting");
    const connecting = connect(id, 60);
    await new Promise((resolve) => setImmediate(resolve));
    world.host.change(id, SandboxState.PAUSED);
    expect(await connecting).toMatchObject({ isResumed: true });
    expect(await endOf(id)).toBe(time + 60_000);
  });

  test("gives no end to one that was made without", async () => {
    const { id } = await world.create();
    expect(await connect(id, 60)).toMatchObject({ row: { time_expires: null }, isResumed: false });
    await world.sandboxes.lifecycle.pause(own(id), { memory: true });
    expect(await connect(id, 60)).toMatchObject({ row: { time_expires: null }, isResumed: true });
  });

  test("finds out that the host has just paused one for inactivity", async () => {
    const { id } = await world.create({ timeout_sec: 60 });
    const { row: read } = await connect(id, 60);
    expect(read.state).toBe("running");
    world.host.cutWatches(); // the record is behind
    world.host.images.pause(id);
    expect(await connect(id, 60)).toMatchObject({ isResumed: true });
  });

  test("does not find what has ended, is unknown, or has failed", async () => {
    const { id } = await make(60);
    time += 60_000;
    expect(await codeOf(connect(id, 60))).toBe("sandbox_not_found");
    expect(await codeOf(connect("iunknown", 60))).toBe("sandbox_not_found");
    const other = await make(60);
    await world.sandboxes.kill(own(other.id));
    expect(await codeOf(connect(other.id, 60))).toBe("sandbox_not_found");
  });
});

test("a resume wants a paused one, and may change what happens when time is up", async () => {
  const { id } = await make(60);
  expect(await codeOf(connects.resume(own(id), { sec: 60, memory: true }))).toBe("sandbox_wrong_state");
  await world.sandboxes.pauseRunning(own(id), { memory: true });
  expect(await connects.resume(own(id), { sec: 30, memory: true, action: "pause" })).toMatchObject({
    expiry_action: "pause",
    expiry_sec: 30,
  });
});

test("a set end may be earlier, also now; a paused sandbox has none to set", async () => {
  const { id } = await make(3600);
  await connects.setExpiry(own(id), 5);
  expect(await endOf(id)).toBe(time + 5_000);
  await connects.setExpiry(own(id), 7200);
  expect(await endOf(id)).toBe(time + 7_200_000);
  await world.sandboxes.pauseRunning(own(id), { memory: true });
  expect(await codeOf(connects.setExpiry(own(id), 60))).toBe("sandbox_not_found");
  expect(await codeOf(connects.refresh(own(id), 60))).toBe("sandbox_not_found");
  await connect(id, 60);
  await connects.setExpiry(own(id), 0);
  expect(await codeOf(connects.setExpiry(own(id), 60))).toBe("sandbox_not_found");
  expect(await codeOf(connects.refresh(own(id), 60))).toBe("sandbox_not_found");
});

test("whatever is asked in whatever order: only a set end comes earlier, and nothing brings back what is over", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constantFrom("connect", "refresh", "set"), sec: fc.integer({ min: 1, max: 50 }) }),
    fc.record({ kind: fc.constant("pass"), sec: fc.integer({ min: 1, max: 40 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
      const { id } = await make(30);
      let end = time + 30_000;
      for (const { kind, sec } of steps) {
        if (kind === "pass") {
          time += sec * 1000;
          continue;
        }
        const isOver = time >= end;
        const asked = time + sec * 1000;
        const done =
          kind === "connect" ? connect(id, sec) : kind === "refresh" ? connects.refresh(own(id), sec) : connects.setExpiry(own(id), sec);
        expect(await codeOf(done)).toBe(isOver ? "sandbox_not_found" : "none");
        if (!isOver) end = kind === "set" ? asked : Math.max(end, asked);
        expect(await endOf(id)).toBe(end);
      }
    }),
    { numRuns: 40 },
  );
});
