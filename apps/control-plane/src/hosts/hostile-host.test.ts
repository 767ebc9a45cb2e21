import { create } from "@bufbuild/protobuf";
import { EventSchema, SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { chooseHost } from "../templates/run/choose-host.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import { eventsPerWindow, HostLink } from "./host-link.ts";
import { unknownStanding } from "./host-standing.ts";
import { eventFrom, observedFrom } from "./observed.ts";

/** What a host may say whose root is somebody else's: another team's own, or one that was broken into. */

const otherTeam = "gother000000000000000";
let world: ServiceWorld;
let database: Database;
let hostile: FakeHost;
let hostileLink: HostLink;

eachServiceWorld((each, db) => {
  world = each;
  database = db;
  hostile = new FakeHost("host-hostile", () => 1);
  hostileLink = new HostLink(hostile, silentLogger);
  world.hosts.add(hostileLink);
  world.hosts.setStanding("host-hostile", { ...unknownStanding, teamId: otherTeam });
});

test("a host that says another's sandbox is gone, ended or renamed is not believed", async () => {
  const { id } = await world.create();
  const before = await world.sandboxes.records.recorded(own(id));
  await world.sandboxes.observeRemoved(id, hostile.id);
  hostile.add({ sandboxId: id, template: "mine", accessToken: "mine" });
  const told = hostile.change(id, SandboxState.FAILED, { generation: 1_000n, failureReason: "no more" });
  await world.sandboxes.observe(observedFrom(told, hostile.id));
  expect(await world.sandboxes.records.recorded(own(id))).toEqual(before);
  expect(world.ended).toEqual([]);
  expect(world.host.sandboxes.has(id)).toBe(true);
  world.host.forget(id);
  await world.sandboxes.observeRemoved(id, world.host.id);
  expect((await world.sandboxes.records.recorded(own(id))).state).toBe("stopped");
});

test.each(["host.deleted", "team.member_added", "key.created", "build.ready", "sandbox.expired"])("%s is no host's to tell", (kind) => {
  const told = create(EventSchema, { eventId: "0123456789", kind, sandboxId: "i1", message: "trust me" });
  expect(eventFrom(told, hostile.id)).toBeUndefined();
  expect(eventFrom({ ...told, kind: "sandbox.paused" }, hostile.id)).toMatchObject({ kind: "sandbox.paused" });
});

test("a host that tells without end is listened to no faster than it may tell", async () => {
  for (let count = 0; count < eventsPerWindow + 50; count += 1) hostile.happen({ kind: "sandbox.paused", sandboxId: "i1" });
  const heard: string[] = [];
  const ending = new AbortController();
  const watching = hostileLink.run(ending.signal, {
    lastEventId: async () => undefined,
    observed: async () => undefined,
    removed: async () => undefined,
    synced: async () => undefined,
    happened: async ({ id }) => void heard.push(id),
  });
  await poll({ what: "as many events as it may tell", timeoutMs: 60_000, intervalMs: 5 }, () =>
    heard.length >= eventsPerWindow ? true : undefined,
  );
  for (let turn = 0; turn < 100; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  expect(heard).toHaveLength(eventsPerWindow);
  ending.abort();
  await watching;
});

test("another team's host decides nothing about names of templates, and gets no builds and their files", async () => {
  const template = hostile.images.templates.get("base");
  if (template === undefined) throw new Error("fake hosts have a base template");
  hostile.images.templates.set("theirs", { ...template, name: "theirs" });
  expect(await world.hosts.findBase("theirs", firstTeam)).toBeUndefined();
  await expect(world.hosts.placeBase("theirs", firstTeam)).rejects.toMatchObject({
    code: "template_not_found",
    message: expect.not.stringContaining("hosts have: base, theirs") as string,
  });
  expect(await world.hosts.findBase("theirs", otherTeam)).toHaveLength(1);
  const wishes = { teamId: firstTeam, templates: ["base"], preferred: [hostile.id], cachedSteps: async () => 0 };
  expect((await chooseHost(world.hosts, wishes)).id).toBe(world.host.id);
  expect((await chooseHost(world.hosts, { ...wishes, teamId: otherTeam })).id).toBe(hostile.id);
});

test("a build is not begun on a host that takes no new sandboxes", async () => {
  world.hosts.setStanding("host-hostile", { ...unknownStanding, state: "cordoned" });
  const wishes = { teamId: firstTeam, templates: ["base"], preferred: [hostile.id], cachedSteps: async () => 0 };
  expect((await chooseHost(world.hosts, wishes)).id).toBe(world.host.id);
  world.hosts.setStanding("host-1", { ...unknownStanding, state: "draining" });
  await expect(chooseHost(world.hosts, wishes)).rejects.toMatchObject({ code: "host_unreachable" });
});

test("text of a host that no database stores, or that is too long, is made storable", async () => {
  const { id } = await world.create();
  const sandbox = world.host.change(id, SandboxState.FAILED, {
    failureReason: `\0${"x".repeat(100_000)}`,
    versions: Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`\0${index}`, "y".repeat(10_000)])),
  });
  const observed = observedFrom(sandbox, world.host.id);
  expect(observed.failureReason?.length).toBe(4096);
  expect(JSON.stringify(observed.versions).length).toBeLessThan(64 * 1024);
  await poll({ what: "its record", timeoutMs: 30_000, intervalMs: 5 }, async () =>
    (await database.db.selectFrom("sandbox").select("state").where("id", "=", id).executeTakeFirst())?.state === "failed"
      ? true
      : undefined,
  );
});
