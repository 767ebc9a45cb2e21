import { randomUUID } from "node:crypto";

import { Code, ConnectError } from "@connectrpc/connect";
import { networkPolicySchema } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { insertMove } from "../db/moves.ts";
import { listTaken, listUnsettled, takenOfHost } from "../db/reservations.ts";
import { requestDeleteOfAnyTeam } from "../db/sandboxes.ts";
import { Events } from "../events/events.ts";
import { NetworkSecrets } from "../sandboxes/network-secrets.ts";
import { hostError } from "../testing/fake-host.ts";
import { own } from "../testing/first-team.ts";
import { MoveWorld, moveWorldKey } from "../testing/move-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Usage } from "../usage/usage.ts";
import type { MoveStep } from "./moves.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let world: MoveWorld;
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  world = await MoveWorld.start(database);
});

async function moves(): Promise<number> {
  return (await database.db.selectFrom("sandbox_move").select("move_id").execute()).length;
}

/** Nothing is half done, and every sandbox is where its record says, once. */
async function expectWhole(...ids: string[]): Promise<void> {
  expect(await moves()).toBe(0);
  expect(world.leftovers()).toEqual([]);
  expect(await listUnsettled(database.db)).toEqual([]);
  for (const id of ids) {
    const row = await world.record(id);
    expect(world.whereIs(id)).toEqual([`${row.host_id} ${row.state.toUpperCase()}`]);
    expect(world.host(row.host_id).moves.contents.get(id)).toBe(`what ${id} holds, which is more than one part of a file`);
  }
}

test("all that is on a host goes on at another one: what ran runs, what was saved stays so, and the host is done", async () => {
  await world.add("a", "irun", "running");
  await world.add("a", "isaved", "paused");
  await world.add("a", "ifailed", "failed");
  await world.operate("a", "draining");
  const before = (await world.record("irun")).generation;
  await world.settle();
  await expectWhole("irun", "isaved", "ifailed");
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
  expect(world.whereIs("isaved")).toEqual(["b PAUSED"]);
  expect(world.whereIs("ifailed")).toEqual(["b FAILED"]);
  expect((await world.record("irun")).generation).toBeGreaterThan(before);
  expect((await world.hostRow("a")).time_drained).not.toBeNull();
  expect((await world.hostRow("a")).drain_problem).toBeNull();
  expect(await world.events("sandbox.moved")).toEqual(["ifailed", "irun", "isaved"]);
  expect(await world.events("sandbox.stopped")).toEqual([]);
});

test("what its guest may reach goes along from the record, with what is sealed there", async () => {
  await world.add("a", "isaved", "paused");
  const policy = networkPolicySchema.parse({ rules: { "api.example.com": { headers: { authorization: "a secret" } } } });
  const network = JSON.stringify(new NetworkSecrets(moveWorldKey).seal(policy, "isaved"));
  await database.db.updateTable("sandbox").set({ network }).where("id", "=", "isaved").execute();
  await world.operate("a", "draining");
  await world.settle();
  await expectWhole("isaved");
  expect(world.host("b").moves.networks.get("isaved")?.rules["api.example.com"]?.headers).toEqual({ authorization: "a secret" });
});

test("what the host that it left tells late is heard, as of then at the latest, and counted; what others tell is not", async () => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  await world.settle();
  const events = new Events(database.db, silentLogger, world.now);
  const usage = new Usage(database.db, world.now);
  const left = await database.db.selectFrom("sandbox_left").select("time_left").executeTakeFirstOrThrow();
  const first = await database.db.selectFrom("sandbox_interval").select("time_started").orderBy("time_started").executeTakeFirstOrThrow();
  const beforeMs = first.time_started.getTime() + 1;
  const told = { kind: "sandbox.paused", sandboxId: "irun", template: null, message: "", detail: {} } as const;
  for (const [hostId, time] of [
    ["a", new Date(beforeMs)],
    ["a", world.now()],
    ["c", new Date(beforeMs)],
  ] as const) {
    await events.record({ ...told, id: `${hostId} ${time.getTime()}`, hostId, time });
    await usage.happened({ ...told, hostId, time });
  }
  const heard = await database.db.selectFrom("event").select(["host_id", "time_created"]).where("kind", "=", "sandbox.paused").execute();
  expect(heard.map((event) => [event.host_id, event.time_created])).toEqual([
    ["a", new Date(beforeMs)],
    ["a", left.time_left],
  ]);
  const intervals = await database.db.selectFrom("sandbox_interval").selectAll().where("sandbox_id", "=", "irun").execute();
  expect(intervals.some(({ state, time_started: started }) => state === "paused" && started.getTime() === beforeMs)).toBe(true);
});

test("a create that comes again when the sandbox was moved away is ended; one that was there before may be what came back", async () => {
  const ids = ["irun", "iback"];
  for (const id of ids) await world.add("a", id, "running");
  await world.operate("a", "draining");
  await world.settle();
  const host = (id: string) => world.host(id);
  for (const id of ids) host("a").add({ sandboxId: id });
  const again = host("a").sandboxes.get("irun");
  if (again !== undefined) again.timeCreatedMs = BigInt(world.now().getTime() + 1);
  await world.plane().reconcile();
  expect(host("a").destroyed).toEqual(["irun"]);
  for (const id of ids) expect(world.whereIs(id)).toContain("b RUNNING");
});

const steps: MoveStep[] = ["recorded", "paused", "held", "copied", "completed", "moved", "settled", "left", "resumed"];
const deaths = steps.flatMap((step) => [[step, "the control plane", []] as const, [step, "everybody", ["a", "b"]] as const]);

test.each(deaths)("ended after it was %s: when %s comes back the sandbox is on one host, whole, and runs", async (step, _, crashing) => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  let isDead = false;
  const dying = world.plane((at) => {
    if (at !== step) return;
    isDead = true;
    throw new Error("the control plane ended");
  });
  await dying.move();
  expect(isDead).toBe(true);
  for (const id of crashing) world.host(id).crash();
  for (const plane of [world.plane(), world.plane()]) await plane.reconcile(); // what is under way is nobody else's
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
  expect(await world.events("sandbox.moved")).toEqual(["irun"]);
});

test.each(["beginDeparture", "readDeparture", "beginArrival", "writeArrival", "completeArrival"] as const)(
  "a host that fails at %s: undone, tried again, and done",
  async (rpc) => {
    await world.add("a", "irun", "running");
    await world.operate("a", "draining");
    for (const host of world.hosts) host.moves.failures.set(rpc, new ConnectError("cut", Code.Unavailable));
    await world.plane().move();
    expect(world.whereIs("irun")).toHaveLength(1);
    await world.settle();
    await expectWhole("irun");
    expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
  },
);

test.each([
  ["sends no end of a file", () => ({ offset: 0n, data: new Uint8Array(), isLast: false })],
  ["sends a file out of order", (offset: bigint) => ({ offset: offset === 0n ? 8n : 0n, data: Buffer.from("x"), isLast: false })],
] as const)("a source that %s is given up, and the sandbox is as it was", async (_, answer) => {
  await world.add("a", "isaved", "paused");
  await world.operate("a", "draining");
  world.host("a").moves.answerRead = answer;
  await world.plane().move();
  expect(world.leftovers()).toEqual([]);
  expect(world.whereIs("isaved")).toEqual(["a PAUSED"]);
  await world.plane().move(); // another one says why
  expect((await world.hostRow("a")).drain_problem).toContain("out of order");
  world.host("a").moves.answerRead = undefined;
  await world.settle();
  await expectWhole("isaved");
  expect(world.whereIs("isaved")).toEqual(["b PAUSED"]);
});

test("a step that was undone and ends there too is gone on with", async () => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  for (const step of ["undone", "released"] as const) {
    world.host("b").moves.failures.set("completeArrival", hostError("image_damaged", "cut"));
    world.later();
    await world
      .plane((at) => {
        if (at === step) throw new Error("the control plane ended");
      })
      .move();
    for (const host of world.hosts) host.crash();
  }
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
});

test("two control planes at once make one sandbox of it", async () => {
  const ids = ["i0", "i1", "i2", "i3"];
  for (const id of ids) await world.add("a", id, "running");
  await world.operate("a", "draining");
  const planes = [world.plane(), world.plane()];
  for (let turn = 0; turn < 8; turn += 1) {
    world.later();
    await Promise.all(planes.map(async (plane) => plane.move()));
    await Promise.all(planes.map(async (plane) => plane.reconcile()));
  }
  await expectWhole(...ids);
  for (const id of ids) expect(world.whereIs(id)).toEqual(["b RUNNING"]);
  expect(await world.events("sandbox.moved")).toEqual(ids);
});

test("where nothing takes it a sandbox runs on, and the drain says why", async () => {
  await world.operate("b", "draining", "pause");
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["a RUNNING"]);
  expect((await world.hostRow("a")).drain_problem).toBe("sandbox irun: no other host takes sandboxes of its team right now");
  await world.operate("b", "ready");
  await world.settle();
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
});

test("where there is no room it stays; room is reserved for what is on its way", async () => {
  const room = { ...world.host("b").size, sandboxCountMax: 1 };
  world.host("b").size = room;
  await world.add("a", "i0", "running");
  await world.add("a", "i1", "running");
  await world.operate("a", "draining");
  const move = { sandboxId: "i0", moveId: randomUUID(), fromHostId: "a", toHostId: "b" };
  expect(await insertMove(database.db, move, world.now())).toBe(true);
  const isTaken = { running: 1, vcpus: 1 };
  expect(await takenOfHost(database.db, "b")).toMatchObject(isTaken);
  expect((await listTaken(database.db)).get("b")).toMatchObject(isTaken);
  await world.settle();
  await expectWhole("i0", "i1");
  const states = [...world.whereIs("i0"), ...world.whereIs("i1")].sort();
  expect(states).toEqual(["a RUNNING", "b RUNNING"]);
  expect((await world.hostRow("a")).drain_problem).toContain("no other host has room for it right now");
});

test("memory that fits no other host is left alone; a saved one is not moved to where it could not go on", async () => {
  await world.add("a", "irun", "running");
  await world.add("a", "isaved", "paused");
  world.host("b").size = Object.assign(world.host("b").size, { memoryFingerprint: "other" });
  world.host("a").size = Object.assign(world.host("a").size, { memoryFingerprint: "this" });
  await world.operate("a", "draining");
  await world.settle();
  await expectWhole("irun", "isaved");
  expect(world.whereIs("irun")).toEqual(["a RUNNING"]);
  expect(world.whereIs("isaved")).toEqual(["a PAUSED"]);
  expect((await world.hostRow("a")).drain_problem).toContain("its memory could go on at no other host");
});

test("what was made for hosts of a kind is moved to one of the kind only", async () => {
  await world.add("a", "irun", "running");
  await database.db
    .updateTable("sandbox")
    .set({ host_tags: JSON.stringify(["ssd"]) })
    .execute();
  await world.operate("a", "draining");
  await world.settle();
  expect(world.whereIs("irun")).toEqual(["a RUNNING"]);
  await database.db
    .updateTable("host")
    .set({ tags: JSON.stringify(["ssd"]) })
    .where("id", "=", "b")
    .execute();
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
});

test("a drain that is called off while a sandbox is copied leaves it where it was, running", async () => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  world.host("b").moves.failures.set("completeArrival", hostError("image_damaged", "cut"));
  await world
    .plane(async (step) => {
      if (step === "copied") await world.operate("a", "ready");
    })
    .move();
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["a RUNNING"]);
});

test("a destination that is to be emptied itself sends on what it got, and that runs in the end", async () => {
  world = await MoveWorld.start(database, ["a", "b", "c"]);
  world.host("c").size = { ...world.host("c").size, sandboxCountMax: 0 };
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  await world
    .plane(async (step) => {
      if (step === "moved") await world.operate("b", "draining");
    })
    .move();
  expect(world.whereIs("irun")).toEqual(["b PAUSED"]);
  world.host("c").size = { ...world.host("c").size, sandboxCountMax: 8 };
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["c RUNNING"]);
});

test("a destination that is deleted just before gets nothing, and the sandbox goes on elsewhere", async () => {
  world = await MoveWorld.start(database, ["a", "b", "c"]);
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  let gone = "";
  await world
    .plane(async (step) => {
      if (step !== "completed" || gone !== "") return;
      const { to_host_id: to } = await database.db.selectFrom("sandbox_move").select("to_host_id").executeTakeFirstOrThrow();
      gone = to;
      await database.db.deleteFrom("host").where("id", "=", to).execute();
      world.host(to).isUnreachable = true;
    })
    .move();
  expect((await world.record("irun")).host_id).toBe("a");
  await world.settle();
  const other = gone === "b" ? "c" : "b";
  expect((await world.record("irun")).host_id).toBe(other);
  expect(world.whereIs("irun")).toContain(`${other} RUNNING`);
  expect(await moves()).toBe(0);
});

test("what cannot be moved is named: what works for a build, and what its host has lost", async () => {
  await world.add("a", "ibuild", "running");
  await world.add("a", "ilost", "paused");
  const forBuild = { for_build_id: "00000000-0000-4000-8000-000000000001" };
  await database.db.updateTable("sandbox").set(forBuild).where("id", "=", "ibuild").execute();
  world.host("a").forget("ilost");
  await world.plane().reconcile();
  await world.operate("a", "draining");
  await world.settle();
  expect((await world.hostRow("a")).drain_problem).toMatch(/^sandbox i(build|lost): .* \(and 1 more\)$/);
  expect(world.whereIs("ibuild")).toEqual(["a RUNNING"]);
  expect((await world.hostRow("a")).time_drained).toBeNull();
});

test.each(["and ended", "and that is only wished yet"])(
  "one that is deleted while it is copied (%s) is gone from both hosts",
  async (how) => {
    await world.add("a", "irun", "running");
    await world.operate("a", "draining");
    const plane = world.plane(async (step) => {
      if (step !== "completed") return;
      if (how === "and ended") await world.plane().sandboxes.delete(own("irun"));
      else await requestDeleteOfAnyTeam(database.db, "irun", world.now());
    });
    await plane.move();
    expect((await world.record("irun")).host_id).toBe("a");
    await world.settle();
    expect(world.whereIs("irun")).toEqual([]);
    expect((await world.record("irun")).state).toBe("stopped");
    expect(await moves()).toBe(0);
    expect(await world.events("sandbox.moved")).toEqual([]);
  },
);

test.each(["pause", "pauseRunning"] as const)("one whose user pauses it while it is moved (%s) stays paused", async (how) => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  const plane = world.plane(async (step) => {
    if (step !== "copied") return;
    const paused = world.plane().sandboxes.lifecycle[how](own("irun"), { memory: true });
    if (how === "pause") await paused;
    else await expect(paused).rejects.toMatchObject({ code: "sandbox_wrong_state" }); // it is that already
  });
  await plane.move();
  await world.settle();
  await expectWhole("irun");
  expect(world.whereIs("irun")).toEqual(["b PAUSED"]);
});

test("a resume that is asked for while the sandbox is moved waits, and finds it where it is then", async () => {
  await world.add("a", "isaved", "paused");
  await world.operate("a", "draining");
  const user = world.plane();
  await user.lookAtHosts();
  let resumed: Promise<unknown> = Promise.resolve();
  const plane = world.plane((step) => {
    if (step === "held") resumed = user.sandboxes.lifecycle.resume(own("isaved"), { memory: true });
  });
  await plane.move();
  await user.lookAtHosts();
  await resumed;
  await world.settle();
  await expectWhole("isaved");
  expect(world.whereIs("isaved")).toEqual(["b RUNNING"]);
});

test("it has the time that it had, and no more", async () => {
  await world.add("a", "irun", "running", { expirySec: 1_000 });
  const ends = (await world.record("irun")).time_expires;
  expect(ends).not.toBeNull();
  await world.operate("a", "draining");
  world.later(100_000);
  await world.plane().move();
  expect((await world.record("irun")).time_expires).toEqual(ends);
  await world.settle();
  expect(world.whereIs("irun")).toEqual(["b RUNNING"]);
});

test("a source that is away when it was moved removes its copy when it is back, and nobody loses the sandbox by it", async () => {
  await world.add("a", "irun", "running");
  await world.operate("a", "draining");
  const plane = world.plane((step) => {
    if (step === "settled") world.host("a").isUnreachable = true;
  });
  await plane.move();
  expect(world.whereIs("irun")).toEqual(["a PAUSED!", "b RUNNING"]);
  await world.settle(world.plane(), 2);
  world.host("a").isUnreachable = false;
  await world.plane().reconcile();
  await expectWhole("irun");
});

test("what hosts hold for moves that nobody knows of is let go or removed, as the record says", async () => {
  await world.add("a", "isaved", "paused");
  const [a, b] = [world.host("a"), world.host("b")];
  const held = (moveId: string, arriving: boolean) => ({ transit: { $typeName: "hostagent.v1.Transit" as const, moveId, arriving } });
  const sandbox = a.sandboxes.get("isaved");
  if (sandbox === undefined) throw new Error("it is there");
  b.sandboxes.set("isaved", structuredClone(sandbox));
  a.change("isaved", sandbox.state, held("00000000-0000-4000-8000-000000000001", false));
  b.change("isaved", sandbox.state, held("00000000-0000-4000-8000-000000000001", true));
  await world.plane().reconcile();
  await expectWhole("isaved");
  expect(world.whereIs("isaved")).toEqual(["a PAUSED"]);
});
