import { createSandboxBodySchema, PlatformError } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { FakeHost, hostError } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Reconciler } from "./reconciler.ts";
import { Sandboxes } from "./sandboxes.ts";

/** The service, a host and the loops between them; what is read back is the database. */

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

let host: FakeHost;
let link: HostLink;
let sandboxes: Sandboxes;
let reconciler: Reconciler;
let ended: string[];
let abort: AbortController;
const strayGraceMs = 60_000;
/** How far the reconciler's clock is ahead */
let skewMs = 0;
let watching: Promise<void>;

beforeEach(async () => {
  await database.db.deleteFrom("sandbox").execute();
  ended = [];
  skewMs = 0;
  host = new FakeHost("host-1", () => 1);
  link = new HostLink(host, silentLogger);
  const onEnded = (id: string) => ended.push(id);
  sandboxes = new Sandboxes({ database, hosts: new Hosts([link]), log: silentLogger, onEnded });
  reconciler = new Reconciler({
    db: database.db,
    host: link,
    isExclusive: true,
    onEnded,
    strayGraceMs,
    now: () => new Date(Date.now() + skewMs),
    log: silentLogger,
  });
  abort = new AbortController();
  watching = link.run(abort.signal, {
    observed: (sandbox) => sandboxes.observe(sandbox),
    removed: (id) => sandboxes.observeRemoved(id, host.id),
    lastEventId: async () => undefined,
    happened: async () => undefined,
    synced: async () => undefined,
  });
  await poll({ what: "the watch", timeoutMs: 30_000, intervalMs: 2 }, () => (link.isWatching ? true : undefined));
});
afterEach(async () => {
  abort.abort();
  await watching;
});

const body = createSandboxBodySchema.parse({ vcpus: 1, memory_mb: 512, timeout_sec: 60, metadata: { a: "b" }, envs: { X: "1" } });
const never = new AbortController().signal;
const create = () => sandboxes.create(firstTeam, body, new AbortController().signal);
const list = async () => (await sandboxes.list(firstTeam, { limit: 100 })).sandboxes;
const isState = (id: string, state: string) =>
  poll({ what: `state ${state}`, timeoutMs: 30_000, intervalMs: 2 }, async () =>
    (await sandboxes.get(own(id))).state === state ? true : undefined,
  );

/** Holds creates on the host until the returned function is called. */
function holdCreates(): () => void {
  let release = () => {};
  host.createGate = new Promise((resolve) => {
    release = resolve;
  });
  return release;
}

async function createHeld(
  signal = never,
): Promise<{ readonly creating: Promise<unknown>; readonly id: string; readonly release: () => void }> {
  const release = holdCreates();
  const creating = sandboxes.create(firstTeam, body, signal);
  creating.catch(() => undefined);
  const id = await poll({ what: "the create on the host", timeoutMs: 30_000, intervalMs: 2 }, () => [...host.sandboxes.keys()][0]);
  return { creating, id, release };
}

test("a created sandbox runs, and the record is what the host said", async () => {
  const row = await create();
  expect(row).toMatchObject({ state: "running", host_id: "host-1", template: "base", disk_size_mib: 2048, metadata: { a: "b" } });
  expect(host.sandboxes.get(row.id)?.spec).toMatchObject({
    vcpus: 1,
    memoryMib: 512,
    timeoutSec: 60,
    envs: { X: "1" },
    accessToken: row.access_token,
  });
  expect(row.access_token).toMatch(/^[0-9a-f]{64}$/);
});

test("the record is there before the host has made anything", async () => {
  const { creating, id, release } = await createHeld();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "creating" });
  release();
  await creating;
});

test("an unknown template is told with those there are, and leaves no record", async () => {
  await expect(sandboxes.create(firstTeam, { ...body, template: "nope" }, never)).rejects.toMatchObject({
    code: "template_not_found",
    message: /hosts have: base/,
  });
  expect(await list()).toEqual([]);
});

test.each(["capacity_exhausted", "template_not_found", "shutting_down", "egress_proxy_invalid"] as const)(
  "%s leaves no record",
  async (code) => {
    host.createFailure = hostError(code, "no");
    await expect(create()).rejects.toMatchObject({ code, message: "no" });
    expect(await list()).toEqual([]);
  },
);

test("a start that failed leaves a failed sandbox with the reason", async () => {
  host.createFailure = hostError("sandbox_start_failed", "the guest agent did not answer in time");
  await expect(create()).rejects.toMatchObject({ code: "sandbox_start_failed" });
  expect(await list()).toMatchObject([{ state: "failed", failure_reason: "the guest agent did not answer in time" }]);
});

test("a create whose outcome is unknown is failed, and ended by the reconciler if it happened after all", async () => {
  host.isUnreachable = true;
  await link.describe(0).catch(() => undefined);
  host.isUnreachable = false;
  await link.describe();
  host.isUnreachable = true;
  await expect(create()).rejects.toMatchObject({ code: "host_unreachable" });
  const [row] = await list();
  expect(row).toMatchObject({ state: "failed" });
  host.isUnreachable = false;
  host.add({ sandboxId: row?.id ?? "" });
  await reconciler.reconcile(); // sees it running: record follows the host …
  await reconciler.reconcile(); // … and ends it, because nobody waits for it
  expect(host.destroyed).toContain(row?.id);
  expect(await sandboxes.get(own(row?.id ?? ""))).toMatchObject({ state: "stopped" });
});

test("no host at all is 503", async () => {
  host.isUnreachable = true;
  await expect(create()).rejects.toMatchObject({ code: "host_unreachable", status: 503 });
  expect(await list()).toEqual([]);
});

test("deleting a create in flight aborts it", async () => {
  const { creating, id, release } = await createHeld();
  await sandboxes.delete(own(id));
  release();
  await expect(creating).rejects.toMatchObject({ code: "create_aborted" });
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "stopped", stop_reason: "deleted" });
  expect(host.sandboxes.size).toBe(0);
});

test("a delete that reached the host before its create did is not forgotten", async () => {
  const release = holdCreates();
  let id = "";
  const original = host.add.bind(host);
  host.add = (spec, state) => {
    id = spec.sandboxId;
    return original(spec, state);
  };
  const creating = create();
  creating.catch(() => undefined);
  await poll({ what: "the create", timeoutMs: 30_000, intervalMs: 2 }, () => (id === "" ? undefined : id));
  // The host answers the destroy as if it had never heard of the sandbox.
  const sandbox = host.sandboxes.get(id);
  host.sandboxes.delete(id);
  await sandboxes.delete(own(id));
  if (sandbox !== undefined) host.sandboxes.set(id, sandbox);
  release();
  await expect(creating).rejects.toMatchObject({ code: "create_aborted" });
  expect(host.sandboxes.has(id)).toBe(false);
});

test("a caller who goes away undoes the create", async () => {
  const gone = new AbortController();
  const { creating, id, release } = await createHeld(gone.signal);
  gone.abort();
  await isState(id, "stopped");
  release();
  await expect(creating).rejects.toMatchObject({ code: "create_aborted" });
  expect(host.sandboxes.size).toBe(0);
});

test("deleting twice, and deleting what failed, succeeds; deleting nothing is 404", async () => {
  const { id } = await create();
  await sandboxes.delete(own(id));
  await sandboxes.delete(own(id));
  expect(host.destroyed).toEqual([id]);
  await expect(sandboxes.delete(own("inosuch"))).rejects.toMatchObject({ code: "sandbox_not_found" });
});

test("deleting while the host is away is 503, and happens when it is back", async () => {
  const { id } = await create();
  host.isUnreachable = true;
  await expect(sandboxes.delete(own(id))).rejects.toMatchObject({ code: "host_unreachable" });
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "stopping" });
  host.isUnreachable = false;
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "stopped" });
});

test("a VM that died is failed with its evidence, at once", async () => {
  const { id } = await create();
  host.change(id, SandboxState.FAILED, {
    failureReason: "the VM ended",
    vmExit: { $typeName: "hostagent.v1.VmExit", signal: "SIGKILL", consoleTail: ["panic\0!"] },
  });
  await isState(id, "failed");
  expect(await sandboxes.get(own(id))).toMatchObject({
    failure_reason: "the VM ended",
    vm_exit: { exit_code: null, signal: "SIGKILL", console_tail: ["panic\u{FFFD}!"] },
  });
  expect(ended).toContain(id);
  await expect(sandboxes.getUsable(own(id))).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /failure_reason/ });
});

test("a sandbox that its host paused because nobody used it is paused", async () => {
  const { id } = await create();
  host.images.pause(id);
  await isState(id, "paused");
  expect(await sandboxes.get(own(id))).toMatchObject({ stop_reason: null, current_generation: 1, has_memory: true });
  expect(ended).toContain(id);
});

test("what the host shows and nothing explains is left alone for a while, and then ended", async () => {
  host.add({ sandboxId: "istray", template: "other" });
  await reconciler.reconcile();
  skewMs = strayGraceMs - 10_000;
  await reconciler.reconcile();
  expect(host.sandboxes.has("istray")).toBe(true);
  await expect(sandboxes.get(own("istray"))).rejects.toMatchObject({ code: "sandbox_not_found" });
  skewMs = strayGraceMs + 10_000;
  await reconciler.reconcile();
  expect(host.sandboxes.has("istray")).toBe(false);
});

test("what was gone for a while counts as a stray anew", async () => {
  host.add({ sandboxId: "istray" });
  await reconciler.reconcile();
  host.forget("istray");
  await reconciler.reconcile();
  host.add({ sandboxId: "istray" });
  skewMs = strayGraceMs + 10_000;
  await reconciler.reconcile();
  expect(host.sandboxes.has("istray")).toBe(true);
});

test("a sandbox that was deleted while its host was away is ended when it is back", async () => {
  const { id } = await create();
  const sandbox = host.sandboxes.get(id);
  await sandboxes.delete(own(id));
  if (sandbox !== undefined) host.sandboxes.set(id, sandbox);
  await reconciler.reconcile();
  expect(host.sandboxes.has(id)).toBe(false);
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "stopped" });
});

test("a create that was undone and reaches its host after all is ended there", async () => {
  host.createFailure = hostError("capacity_exhausted", "full");
  await expect(create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  const [operation] = await sandboxes.operations.list(firstTeam, { limit: 1 });
  const [id = ""] = operation?.made ?? [];
  expect(operation).toMatchObject({ state: "failed", failure: { code: "capacity_exhausted" } });
  host.add({ sandboxId: id });
  await reconciler.reconcile();
  expect(host.sandboxes.has(id)).toBe(false);
});

test("what a host has been at for too long is asked for again", async () => {
  const { id } = await create();
  host.change(id, SandboxState.CREATING); // and nobody waits for it
  await isState(id, "creating");
  await reconciler.reconcile();
  expect(host.destroyed).toEqual([]);
  skewMs = 3_600_000;
  await reconciler.reconcile();
  expect(host.destroyed).toEqual([id]);
});

test("what the host lost is failed, and taken back if it turns up", async () => {
  const { id } = await create();
  const sandbox = host.sandboxes.get(id);
  host.forget(id);
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "failed", failure_reason: /lost by its host/ });
  if (sandbox !== undefined) host.sandboxes.set(id, sandbox);
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "running", failure_reason: null });
});

test("a create in flight is not lost, however early the host was listed", async () => {
  const { creating, id, release } = await createHeld();
  const sandbox = host.sandboxes.get(id);
  host.sandboxes.delete(id); // as in a listing made a moment before
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "creating" });
  if (sandbox !== undefined) host.sandboxes.set(id, sandbox);
  release();
  await creating;
});

test("a sandbox created after the listing and before the comparison is left alone", async () => {
  host.afterListing = async () => {
    host.afterListing = undefined;
    await create();
  };
  await reconciler.reconcile();
  expect(await list()).toMatchObject([{ state: "running" }]);
});

test("a sandbox that changed after the listing is left alone", async () => {
  const { id } = await create();
  const sandbox = host.sandboxes.get(id);
  host.sandboxes.delete(id);
  host.afterListing = async () => {
    host.afterListing = undefined;
    if (sandbox === undefined) return;
    host.sandboxes.set(id, sandbox); // it was there all along, and is resized meanwhile
    await sandboxes.setTimeout(own(id), 99);
  };
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "running", timeout_sec: 99 });
});

test("creates that a former process left behind are undone, those on their way from another replica are not", async () => {
  const { creating, id, release } = await createHeld();
  const held = host.sandboxes.get(id);
  host.sandboxes.delete(id);
  const exclusive = { ...database, isExclusive: true };
  const other = new Sandboxes({ database: exclusive, hosts: new Hosts([link]), log: silentLogger, onEnded: () => undefined });
  await reconciler.reconcile();
  expect(await sandboxes.get(own(id))).toMatchObject({ state: "creating" });
  await other.recovery.round(); // nobody else can have this database, so whose operations these are is gone
  await expect(sandboxes.get(own(id))).rejects.toMatchObject({ code: "sandbox_not_found" });
  expect(await other.operations.list(firstTeam, { subject: id, limit: 1 })).toMatchObject([
    { state: "failed", failure: { code: "operation_interrupted" } },
  ]);
  if (held !== undefined) host.sandboxes.set(id, held);
  release();
  await expect(creating).rejects.toMatchObject({ code: "sandbox_not_found" });
  await reconciler.reconcile();
  expect(host.sandboxes.has(id)).toBe(false);
});

test("a broken watch is opened again and catches up", async () => {
  const { id } = await create();
  host.cutWatches();
  host.change(id, SandboxState.FAILED, { failureReason: "died while nobody looked" });
  await isState(id, "failed");
  expect(link.isWatching).toBe(true);
});

test("ping, timeout, metrics and console go to the host, in states that allow them", async () => {
  const { id } = await create();
  await sandboxes.ping(own(id));
  expect(await sandboxes.setTimeout(own(id), 5)).toMatchObject({ timeout_sec: 5, state: "running" });
  expect(await sandboxes.metrics(own(id), "10m")).toMatchObject({ sandbox_id: id, points: [{ timestamp_unix: 1, cpu_pct: 12.5 }] });
  expect(Buffer.from(await sandboxes.console(own(id), 7)).toString()).toBe("login: ");
  await sandboxes.delete(own(id));
  expect(await sandboxes.metrics(own(id), "10m"), "nothing is stored here").toMatchObject({ points: [] });
  for (const use of [() => sandboxes.ping(own(id)), () => sandboxes.setTimeout(own(id), 5)]) {
    await expect(use()).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  }
  expect(await sandboxes.console(own(id), 7)).toEqual(new Uint8Array());
});

test("a fresh look shows the host's last activity, and the record when the host is away", async () => {
  const { id } = await create();
  const later = BigInt(Date.now() + 1_000_000);
  const sandbox = host.sandboxes.get(id);
  if (sandbox !== undefined) sandbox.timeLastActiveMs = later;
  expect((await sandboxes.getFresh(own(id))).time_last_active.getTime()).toBe(Number(later));
  host.isUnreachable = true;
  expect(await sandboxes.getFresh(own(id))).toMatchObject({ id, state: "running" });
});

test("while draining nothing new is created", async () => {
  sandboxes.drain();
  await expect(create()).rejects.toBeInstanceOf(PlatformError);
  await expect(create()).rejects.toMatchObject({ code: "shutting_down" });
});

test("many at once, with deletes in between, end as the host says", async () => {
  const rows = await Promise.all(Array.from({ length: 20 }, create));
  await Promise.all([...rows.slice(0, 10).map((row) => sandboxes.delete(own(row.id))), reconciler.reconcile(), reconciler.reconcile()]);
  await reconciler.reconcile();
  const states = await Promise.all(rows.map(async (row) => (await sandboxes.get(own(row.id))).state));
  expect(states).toEqual([...Array.from({ length: 10 }, () => "stopped"), ...Array.from({ length: 10 }, () => "running")]);
  expect(host.sandboxes.size).toBe(10);
});
