import { Code, ConnectError, createRouterTransport, type Transport } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { createSandboxBodySchema, vmOverheadMib, type ErrorCode } from "@roost/contract";
import { minute, poll, silentLogger } from "@roost/kit";
import { afterEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { listUnsettled } from "../db/reservations.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { FakeHost, hostError } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";

let database: Database;
/** Has most room, so that it is chosen first */
let large: FakeHost;
let small: FakeHost;
let abort: AbortController;
let watching: Promise<unknown>;

eachServiceWorld(async (_world, db) => {
  database = db;
  await database.db.deleteFrom("host").execute();
  large = new FakeHost("host-large", () => 1);
  small = new FakeHost("host-small", () => 1);
  small.size = { ...small.size, memoryLimitMib: 65_536 };
  abort = new AbortController();
});
afterEach(async () => {
  abort.abort();
  await watching;
});

type CreateSandbox = (forward: () => Promise<unknown>) => Promise<unknown>;

/** A control plane of the two hosts, and its watches. `onCreate`: what becomes of creates at the large one. */
function controlPlane(onCreate?: CreateSandbox, now: () => Date = () => new Date()): Sandboxes {
  const { id, tunnels } = large;
  const first = onCreate === undefined ? large : { id, tunnels, transport: withCreate(large, onCreate) };
  const links = [first, small].map((host) => new HostLink(host, silentLogger));
  const hosts = new Hosts(links);
  const sandboxes = new Sandboxes({ database, hosts, roomWaitMs: 0, log: silentLogger, onEnded: () => undefined, now });
  watching = Promise.all(
    links.map(async (link) =>
      link.run(abort.signal, {
        observed: (sandbox) => sandboxes.observe(sandbox),
        removed: (id) => sandboxes.observeRemoved(id, link.id),
        lastEventId: async () => undefined,
        happened: async () => undefined,
        synced: async () => undefined,
      }),
    ),
  );
  return sandboxes;
}

/** As the host's, but failures of creates are thrown on this side of the connection, with all their causes. */
function withCreate(host: FakeHost, onCreate: CreateSandbox): Transport {
  const inner = createRouterTransport((router) => void router.service(HostAgentService, host.service));
  return {
    stream: inner.stream.bind(inner),
    unary: async (method, ...rest) => {
      const forward = async () => inner.unary(method, ...rest);
      return (method.localName === "createSandbox" ? onCreate(forward) : forward()) as ReturnType<typeof forward>;
    },
  };
}

const refuses = (code: ErrorCode) => async () => Promise.reject(hostError(code, "not here"));
const create = async (sandboxes: Sandboxes) =>
  sandboxes.create(firstTeam, createSandboxBodySchema.parse({ memory_mb: 512, timeout_sec: 0 }), new AbortController().signal);
const reserved = async () => database.db.selectFrom("reservation").select(["sandbox_id", "host_id"]).orderBy("sandbox_id").execute();
const nothingLeft = async (sandboxes: Sandboxes) => {
  expect(await reserved()).toEqual([]);
  expect(large.sandboxes.size + small.sandboxes.size).toBe(0);
  const operations = await sandboxes.operations.list(firstTeam, { limit: 1 });
  expect(operations).toEqual([expect.objectContaining({ state: "failed" })]);
};

test.each<ErrorCode>(["capacity_exhausted", "host_disk_full", "shutting_down", "template_not_found"])(
  "a host that refuses with %s is followed by the next one, in the same operation",
  async (code) => {
    const sandboxes = controlPlane(refuses(code));
    const { id, host_id: hostId, state } = await create(sandboxes);
    expect({ hostId, state }).toEqual({ hostId: "host-small", state: "running" });
    expect([...small.sandboxes.keys()]).toEqual([id]);
    expect(await reserved()).toEqual([{ sandbox_id: id, host_id: "host-small" }]);
    expect(await listUnsettled(database.db)).toEqual([]);
    const operations = await sandboxes.operations.list(firstTeam, { subject: id, limit: 10 });
    expect(operations).toEqual([expect.objectContaining({ kind: "sandbox.create", state: "succeeded" })]);
    await poll({ what: "the end of what the other may have of it", timeoutMs: 30_000 }, () =>
      large.destroyed.includes(id) ? true : undefined,
    );
    expect((await sandboxes.get(own(id))).state).toBe("running");
  },
);

test("who refused is asked last for a while", async () => {
  let asked = 0;
  const sandboxes = controlPlane(async () => {
    asked += 1;
    throw hostError("capacity_exhausted", "full");
  });
  await create(sandboxes);
  await create(sandboxes);
  expect(asked).toBe(1);
});

test("a host that cannot be connected to is followed by the next; of one that falls silent nobody knows, so it is not", async () => {
  const refusedConnection = Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED", syscall: "connect" });
  const unconnected = controlPlane(async () => {
    throw new ConnectError("no connection", Code.Unavailable, undefined, undefined, refusedConnection);
  });
  const { id } = await create(unconnected);
  expect([...small.sandboxes.keys()]).toEqual([id]);
  abort.abort();
  await watching;

  abort = new AbortController();
  await database.db.deleteFrom("sandbox").execute();
  small.forget(id);
  const silent = controlPlane(async (forward) => {
    await forward();
    throw new ConnectError(
      "read ECONNRESET",
      Code.Unavailable,
      undefined,
      undefined,
      Object.assign(new Error("read ECONNRESET"), { syscall: "read" }),
    );
  });
  expect(await codeOf(create(silent))).toBe("host_unreachable");
  expect(small.sandboxes.size).toBe(0);
});

test("where all refuse, the last refusal is the answer, and nothing is left", async () => {
  small.createFailure = hostError("shutting_down", "ends");
  const sandboxes = controlPlane(refuses("capacity_exhausted"));
  expect(await codeOf(create(sandboxes))).toBe("shutting_down");
  await nothingLeft(sandboxes);
});

test("a failure that says nothing of other hosts is not tried there", async () => {
  const sandboxes = controlPlane(refuses("request_invalid"));
  expect(await codeOf(create(sandboxes))).toBe("request_invalid");
  await nothingLeft(sandboxes);
});

test("a sandbox that somebody deleted before its host refused is made nowhere", async () => {
  const sandboxes = controlPlane(async () => {
    await database.db.updateTable("sandbox").set({ time_delete_requested: new Date() }).execute(); // as another control plane does
    throw hostError("capacity_exhausted", "full");
  });
  expect(await codeOf(create(sandboxes))).toBe("capacity_exhausted");
  await nothingLeft(sandboxes);
});

test("many at once: each is on one host, no more than fit, and none is reserved that is not there", async () => {
  small.size = { ...small.size, memoryLimitMib: 5 * (512 + vmOverheadMib) };
  const sandboxes = controlPlane(refuses("capacity_exhausted"));
  const outcomes = await Promise.allSettled(Array.from({ length: 20 }, async () => create(sandboxes)));
  const made = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value.id] : [])).sort();
  const failed = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [(outcome.reason as { code: string }).code] : []));
  expect(made).toHaveLength(5);
  expect(failed).toEqual(Array.from({ length: 15 }, () => "capacity_exhausted"));
  expect([...small.sandboxes.keys()].sort()).toEqual(made);
  expect(await reserved()).toEqual(made.map((id) => ({ sandbox_id: id, host_id: "host-small" })));
  expect(await listUnsettled(database.db)).toEqual([]);
});

test("a control plane that ends after the move leaves it to the next, which asks the new host", async () => {
  let release = () => {};
  small.createGate = new Promise((resolve) => (release = resolve));
  const first = controlPlane(refuses("capacity_exhausted"));
  const abandoned = create(first).catch(() => undefined);
  const id = await poll({ what: "the create there", timeoutMs: 30_000, intervalMs: 2 }, () => [...small.sandboxes.keys()][0]);
  abort.abort();
  await watching;
  abort = new AbortController();
  // its host agent had not begun with it when it ended, too
  small.forget(id);
  const next = controlPlane(undefined, () => new Date(Date.now() + minute));
  await next.recovery.round();
  await nothingLeft(next);
  release();
  await abandoned;
});
