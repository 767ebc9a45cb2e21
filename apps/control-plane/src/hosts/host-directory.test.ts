import { hostName } from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { codeOf } from "../testing/code-of.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { HostPortLab, serveHostAgent, type RegisteredHost, type Shown } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { CertificateAuthority, makeKeyPair } from "./certificates.ts";
import { wasNeverSent } from "./from-connect-error.ts";
import { wrongHost } from "./host-peer.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
let closing: (() => Promise<void>)[];
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "host", "event"] as const) await database.db.deleteFrom(table).execute();
  lab = await HostPortLab.start(database);
  closing = [];
});
afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  for (const close of closing) await close();
});

/** A host agent that shows `shown` (its own certificate, if not said) where the host says that it is. */
async function serve(host: RegisteredHost, fake: FakeHost, shown: Shown = host.shown): Promise<string> {
  const served = await serveHostAgent(fake, shown, lab.authority.pem);
  closing.push(served.close);
  await lab.beat(host.shown, { address: served.address });
  await lab.platform.directory.refresh();
  return served.address;
}

test("a host that registered is reached over mutual TLS, wherever it moves; one that was deleted is let go", async () => {
  const host = await lab.register("rack-1", "127.0.0.1:9");
  const link = lab.platform.hosts.get(host.id);
  expect(await codeOf(link.getSandbox("i1"))).toBe("host_unreachable");
  const [first, second] = [new FakeHost(host.id, () => 1), new FakeHost(host.id, () => 1)];
  first.add({ sandboxId: "i1" });
  second.add({ sandboxId: "i2" });
  await serve(host, first);
  expect((await link.listSandboxes()).map(({ id }) => id)).toEqual(["i1"]);
  await serve(host, second);
  expect((await link.listSandboxes()).map(({ id }) => id)).toEqual(["i2"]);
  const removed: string[] = [];
  lab.platform.hosts.follow({ added: () => undefined, removed: ({ id }) => void removed.push(id) });
  await lab.platform.administration.delete(lab.operator, host.id, { force: false });
  await lab.platform.directory.refresh();
  expect(removed).toEqual([host.id]);
  expect(() => lab.platform.hosts.get(host.id)).toThrow(expect.objectContaining({ code: "host_unreachable" }) as Error);
});

test("who answers at a host's address without being that host is not talked to", async () => {
  const host = await lab.register("rack-1");
  const other = await lab.register("rack-2");
  const made = await CertificateAuthority.make(new Date());
  const authority = await CertificateAuthority.open(made.certificatePem, made.privateKeyPem);
  const pair = await makeKeyPair();
  const foreign = { cert: (await authority.issue(hostName(host.id), pair.publicKey, new Date())).pem, key: pair.privateKeyPem };
  const expired = await lab.forge(hostName(host.id), -60_000);
  for (const shown of [other.shown, foreign, expired, await lab.forge("roost://control-plane")]) {
    const fake = new FakeHost(host.id, () => 1);
    fake.add({ sandboxId: "i1" });
    await serve(host, fake, shown);
    expect(await codeOf(lab.platform.hosts.get(host.id).listSandboxes())).toBe("host_unreachable");
  }
});

test("a certificate that was replaced is not accepted from a host; the newest, its forerunner while that is good, and a newer one are", () => {
  const time = (offsetMin: number) => new Date(Date.parse("2030-01-01T00:00:00Z") + offsetMin * 60_000);
  const known = { current: "bb", timeIssued: time(0), previous: "aa" };
  const shown = (fingerprint: string, issuedMin: number, id = "h1") => ({
    subjectaltname: `URI:${hostName(id)}`,
    fingerprint256: fingerprint.toUpperCase(),
    valid_from: time(issuedMin - 5).toUTCString(),
  });
  expect(wrongHost("h1", shown("bb", 0), known)).toBeUndefined();
  expect(wrongHost("h1", shown("aa", -100), known)).toBeUndefined();
  expect(wrongHost("h1", shown("cc", 1), known)).toBeUndefined();
  expect(wrongHost("h1", shown("cc", -100), known)).toBeInstanceOf(Error);
  expect(wrongHost("h1", shown("aa", -100), { ...known, previous: null })).toBeInstanceOf(Error);
  expect(wrongHost("h1", shown("bb", 0, "h2"), known)).toBeInstanceOf(Error);
  for (const subjectaltname of [
    undefined,
    "",
    `URI:${hostName("h1")}, URI:${hostName("h2")}`,
    "DNS:roost",
    `URI:${hostName("h1")}, DNS:x`,
  ]) {
    expect(wrongHost("h1", { ...shown("bb", 0), subjectaltname } as never, known)).toBeInstanceOf(Error);
  }
});

test("a host that hangs stalls nobody but those who ask for it", async () => {
  const [hung, well] = [await lab.register("hung"), await lab.register("well")];
  const [hangs, answers] = [new FakeHost(hung.id, () => 1), new FakeHost(well.id, () => 1)];
  let release = () => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  let asked = 0;
  const service = { ...hangs.service, getHost: async () => ((asked += 1), gate.then(() => ({}))) };
  await serve(hung, Object.assign(Object.create(hangs) as FakeHost, { service }));
  await serve(well, answers);
  await lab.beat(well.shown, { address: (await lab.platform.administration.get(well.id)).address ?? "" });
  const { hosts } = lab.platform;
  for (let times = 0; times < 3; times += 1) {
    expect((await hosts.placeBase("base", "default")).map(({ host: { id } }) => id)).toEqual([well.id]);
    hosts.get(well.id).forgetDescription();
  }
  expect(asked).toBe(1);
  release();
});

test("each host is followed by itself: a watch that hangs holds up no other", async () => {
  const { runPerHost } = await import("./per-host.ts");
  const [one, two] = [await lab.register("one"), await lab.register("two")];
  const started: string[] = [];
  const ended: string[] = [];
  const abort = new AbortController();
  const running = runPerHost(lab.platform.hosts, abort.signal, (link, signal) => {
    started.push(link.id);
    return [new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(void ended.push(link.id))))];
  });
  const three = await lab.register("three");
  expect(started.sort()).toEqual([one.id, two.id, three.id].sort());
  await lab.platform.administration.delete(lab.operator, two.id, { force: false });
  await poll({ what: "the end of what was done for the deleted host", timeoutMs: 30_000, intervalMs: 5 }, () =>
    ended.length > 0 ? true : undefined,
  );
  expect(ended).toEqual([two.id]);
  abort.abort();
  await running;
  expect(ended.sort()).toEqual([one.id, two.id, three.id].sort());
});

test("of a host that nobody answers for, or somebody else, it is known that a call never reached it; of one that breaks off it is not", async () => {
  const host = await lab.register("rack-1", "127.0.0.1:9");
  const link = lab.platform.hosts.get(host.id);
  const failureOf = async () => link.getSandbox("i1").catch((error: unknown) => error);
  expect(wasNeverSent(await failureOf())).toBe(true);
  await serve(host, new FakeHost(host.id, () => 1), await lab.forge("roost://control-plane"));
  expect(wasNeverSent(await failureOf())).toBe(true);
  const breaks = new FakeHost(host.id, () => 1);
  await serve(host, breaks);
  breaks.afterListing = async () => closing.at(-1)?.();
  const failure = await link.listSandboxes().catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(Error);
  expect(wasNeverSent(failure)).toBe(false);
});
