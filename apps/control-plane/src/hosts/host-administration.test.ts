import { decideHost, hostStates, type HostRequest } from "@roost/contract";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { ensureHost } from "../db/hosts.ts";
import { createTestTeam } from "../testing/callers.ts";
import { codeOf } from "../testing/code-of.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { HostPortLab, plantSandbox } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "host", "event", "template"] as const) await database.db.deleteFrom(table).execute();
  lab = await HostPortLab.start(database, { inProcess: [new FakeHost("local", () => 1)] });
});
afterEach(() => lab[Symbol.asyncDispose]());

const administration = () => lab.platform.administration;
const kinds = async (id: string) =>
  (await database.db.selectFrom("event").select("kind").where("subject_id", "=", id).orderBy("number").execute()).map(({ kind }) => kind);
const actions = async (id: string) =>
  (await database.db.selectFrom("audit_entry").select("action").where("resource_id", "=", id).orderBy("number").execute()).map(
    ({ action }) => action,
  );

const plant = async (hostId: string, id: string) => plantSandbox(database.db, hostId, id);

test("states move only as the machine says", () => {
  const moves = (request: HostRequest) =>
    hostStates.map((state) => {
      const decision = decideHost(state, request);
      return decision.kind === "accept" ? decision.next : decision.kind;
    });
  // pending, ready, cordoned, draining
  expect(moves("register")).toEqual(["ready", "ignore", "ignore", "ignore"]);
  expect(moves("cordon")).toEqual(["deny", "cordoned", "ignore", "cordoned"]);
  expect(moves("uncordon")).toEqual(["deny", "ignore", "ready", "ready"]);
  expect(moves("drain")).toEqual(["deny", "draining", "draining", "draining"]);
});

test("a host is announced, changed, cordoned and uncordoned; each is told and audited once", async () => {
  const team = await createTestTeam(database.db);
  const { id } = await lab.register("rack-1");
  const changed = await administration().update(lab.operator, id, { name: "rack-2", tags: ["ssd", "a"], team_id: team });
  expect(changed).toMatchObject({ name: "rack-2", tags: ["ssd", "a"], team_id: team, state: "ready" });
  expect(await administration().update(lab.operator, id, { team_id: null })).toMatchObject({
    name: "rack-2",
    tags: ["ssd", "a"],
    team_id: null,
  });
  for (let times = 0; times < 2; times += 1) expect((await administration().cordon(lab.operator, id)).state).toBe("cordoned");
  expect((await administration().uncordon(lab.operator, id)).state).toBe("ready");
  expect(await kinds(id)).toEqual(["host.registered", "host.cordoned", "host.uncordoned"]);
  expect(await actions(id)).toEqual(["host.create", "host.register", "host.update", "host.update", "host.cordon", "host.uncordon"]);
});

test("names are given once, teams have to exist, and what is not there is not found", async () => {
  await administration().create(lab.operator, { name: "Rack-1", tags: [], team_id: null });
  const again = administration().create(lab.operator, { name: "rack-1", tags: [], team_id: null });
  expect(await codeOf(again)).toBe("host_exists");
  const { host } = await administration().create(lab.operator, { name: "rack-2", tags: [], team_id: null });
  expect(await codeOf(administration().update(lab.operator, host.id, { name: "RACK-1" }))).toBe("host_exists");
  const nobodys = { name: "rack-3", tags: [], team_id: "gnobody" };
  expect(await codeOf(administration().create(lab.operator, nobodys))).toBe("team_not_found");
  for (const act of ["get", "previewDeletion"] as const) expect(await codeOf(administration()[act]("hnone"))).toBe("host_not_found");
  for (const act of ["cordon", "uncordon", "createToken"] as const)
    expect(await codeOf(administration()[act](lab.operator, "hnone"))).toBe("host_not_found");
  for (const act of ["cordon", "uncordon"] as const)
    expect(await codeOf(administration()[act](lab.operator, host.id))).toBe("host_wrong_state");
});

test("changes that cross are all made, one after the other", async () => {
  const { id } = await lab.register("rack-1");
  const tags = ["a", "b", "c", "d"];
  await Promise.all([
    ...tags.map((tag) => administration().update(lab.operator, id, { tags: [tag] })),
    administration().cordon(lab.operator, id),
  ]);
  const row = await database.db.selectFrom("host").select(["generation", "state"]).where("id", "=", id).executeTakeFirstOrThrow();
  expect(row).toEqual({ generation: 7, state: "cordoned" }); // announced 1, registered 2, and five changes
});

test("a host with sandboxes is deleted only by force, after what would be lost was shown", async () => {
  const { id } = await lab.register("rack-1");
  await plant(id, "i1");
  await plant(id, "i2");
  await plant("local", "i3");
  await database.db
    .insertInto("template")
    .values(["only-there", "everywhere"].map((name) => ({ host_id: id, name, ...plainTemplate })))
    .execute();
  await database.db
    .insertInto("template")
    .values({ host_id: "local", name: "everywhere", ...plainTemplate })
    .execute();
  expect(await administration().previewDeletion(id)).toMatchObject({
    sandbox_count: 2,
    sandboxes: [{ id: "i1" }, { id: "i2" }],
    templates: ["only-there"],
  });
  const refusal = administration().delete(lab.operator, id, { force: false });
  await expect(refusal).rejects.toMatchObject({ code: "host_has_sandboxes", message: expect.stringContaining("2 sandboxes (i1, i2)") });
  expect((await administration().get(id)).state).toBe("ready");
  await administration().delete(lab.operator, id, { force: true });
  expect(await codeOf(administration().get(id))).toBe("host_not_found");
  const rows = await database.db.selectFrom("sandbox").select(["id", "state", "stop_reason"]).orderBy("id").execute();
  expect(rows).toEqual([
    { id: "i1", state: "stopped", stop_reason: "host_deleted" },
    { id: "i2", state: "stopped", stop_reason: "host_deleted" },
    { id: "i3", state: "creating", stop_reason: null },
  ]);
  expect(lab.ended.sort()).toEqual(["i1", "i2"]);
  expect(await kinds(id)).toContain("host.deleted");
  expect(await kinds("i1")).toContain("sandbox.stopped");
  expect((await actions(id)).at(-1)).toBe("host.delete");
});

test("the host in this process is one like others, except that it neither registers nor goes", async () => {
  expect(await administration().list()).toMatchObject([
    {
      id: "local",
      name: "local",
      state: "ready",
      is_reachable: true,
      address: null,
      description: { vmm: "fake" },
      load: { memory_free_mb: 2048 },
    },
  ]);
  expect((await administration().cordon(lab.operator, "local")).state).toBe("cordoned");
  expect(await codeOf(administration().delete(lab.operator, "local", { force: true }))).toBe("host_wrong_state");
  expect(await codeOf(administration().createToken(lab.operator, "local"))).toBe("host_wrong_state");
});

test("a host in this process is recorded also when another one has its name already", async () => {
  await database.db.deleteFrom("host").execute();
  await administration().create(lab.operator, { name: "local", tags: [], team_id: null });
  for (let starts = 0; starts < 2; starts += 1) await ensureHost(database.db, "local", new Date());
  const rows = await database.db.selectFrom("host").select(["id", "name"]).where("id", "=", "local").execute();
  expect(rows).toEqual([{ id: "local", name: expect.stringMatching(/^local h/) }]);
});

test("a lease that a single lost heartbeat would end is refused", async () => {
  await expect(HostPortLab.start(database, { times: { hostHeartbeatSec: 30, hostLeaseSec: 30 } })).rejects.toThrow(
    "ROOST_HOST_LEASE_SEC=30 is not valid",
  );
});

const plainTemplate = { kind: "base", digest: "d", disk_size_mib: 1, has_memory: false, vcpus: 0, memory_mib: 0 } as const;
