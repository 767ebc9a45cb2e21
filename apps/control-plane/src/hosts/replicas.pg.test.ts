import { hostCertificateSchema } from "@roost/contract";
import { poll, silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import { HostPortLab, makeRequest, shownOf } from "../testing/host-port-lab.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";
import { makeKeyPair } from "./certificates.ts";

const reason = whyNoPostgres();
let postgres: TestPostgres;
let databases: Database[];
let one: HostPortLab;
let two: HostPortLab;

/** Two control planes that start at the same moment on one new database. */
async function startTwo(): Promise<void> {
  const url = await postgres.createDatabase();
  databases = await Promise.all([1, 2].map(async () => openDatabase({ kind: "server", url }, silentLogger)));
  const [first, second] = await Promise.all(databases.map(async (database) => HostPortLab.start(database)));
  if (first === undefined || second === undefined) throw new Error("two control planes start");
  [one, two] = [first, second];
}

describe.skipIf(reason !== undefined)(`two control planes${reason === undefined ? "" : ` (skipped: ${reason})`}`, () => {
  beforeAll(async () => {
    postgres = postgresOfRun();
  });
  afterAll(() => postgres[Symbol.asyncDispose]());
  beforeEach(startTwo);
  afterEach(async () => {
    for (const lab of [one, two]) await lab[Symbol.asyncDispose]();
    for (const database of databases) await database.close();
  });

  test("two that start at once have one authority: a host of one is known to the other, for as long as it is a host", async () => {
    expect(one.authority.fingerprint).toBe(two.authority.fingerprint);
    const host = await one.register("rack-1");
    expect((await two.beat(host.shown)).status).toBe(200);
    const abort = new AbortController();
    const running = two.platform.directory.run(abort.signal);
    await poll({ what: "the other's link to the host", timeoutMs: 30_000 }, () =>
      two.platform.hosts.all().find(({ id }) => id === host.id),
    );
    await one.platform.administration.cordon(one.operator, host.id);
    await poll({ what: "the host's state at the other", timeoutMs: 30_000 }, () =>
      two.platform.hosts.seenState(host.id) === "cordoned" ? true : undefined,
    );
    await one.platform.administration.delete(one.operator, host.id, { force: false });
    expect(await two.beat(host.shown)).toMatchObject({ status: 410, body: { error: { code: "host_deleted" } } });
    await poll({ what: "the end of the other's link", timeoutMs: 30_000 }, () =>
      two.platform.hosts.all().length === 0 ? true : undefined,
    );
    abort.abort();
    await running;
  });

  test("a token used at both at once is used once", async () => {
    const { registration } = await one.platform.administration.create(one.operator, { name: "rack-1", tags: [], team_id: null });
    const csrs = await Promise.all(Array.from({ length: 6 }, async () => makeRequest(await makeKeyPair())));
    const answers = await Promise.all(csrs.map(async (csr, index) => (index % 2 === 0 ? one : two).registerWith(registration.token, csr)));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 401)).toHaveLength(5);
  });

  test("renewals that cross leave one certificate that works", async () => {
    const host = await one.register("rack-1");
    const pairs = await Promise.all([1, 2].map(async () => makeKeyPair()));
    const answers = await Promise.all(
      pairs.map(async (pair, index) =>
        (index === 0 ? one : two).post("/hosts/certificate", { csr_pem: await makeRequest(pair) }, host.shown),
      ),
    );
    const statuses = await Promise.all(
      answers.map(async ({ body }, index) => {
        const pair = pairs[index];
        return pair === undefined ? 0 : (await one.beat(shownOf(hostCertificateSchema.parse(body), pair))).status;
      }),
    );
    expect(statuses.sort()).toEqual([200, 401]);
  });

  test("an end of a lease, and a return, are told by one of them", async () => {
    const host = await one.register("rack-1");
    for (const lab of [one, two]) lab.clock.offsetMs += 31_000;
    const told = await Promise.all(
      Array.from({ length: 8 }, async (_, index) => (index % 2 === 0 ? one : two).platform.heartbeats.monitor()),
    );
    expect(told.flat()).toEqual([host.id]);
    await Promise.all(Array.from({ length: 8 }, async (_, index) => (index % 2 === 0 ? one : two).beat(host.shown)));
    const events = await databases[0]?.db.selectFrom("event").select("kind").where("subject_id", "=", host.id).orderBy("number").execute();
    expect(events?.map(({ kind }) => kind)).toEqual(["host.registered", "host.unreachable", "host.back"]);
  });

  test("changes that cross are all made, at whichever control plane", async () => {
    const { id } = await one.register("rack-1");
    await Promise.all(
      Array.from({ length: 4 }, async (_, index) =>
        (index % 2 === 0 ? one : two).platform.administration.update(one.operator, id, { tags: [`t${index}`] }),
      ),
    );
    const row = await databases[0]?.db.selectFrom("host").select("generation").where("id", "=", id).executeTakeFirstOrThrow();
    expect(row).toEqual({ generation: 6 });
  });
});
