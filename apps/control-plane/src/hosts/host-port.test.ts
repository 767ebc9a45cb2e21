import { connect as connectTcp, type Socket } from "node:net";
import { connect } from "node:tls";

import { hostName, hostPortPaths } from "@roost/contract";
import { minute } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { HostPortLab, makeRequest, type Shown } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { CertificateAuthority, makeKeyPair } from "./certificates.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("host").execute();
  lab = await HostPortLab.start(database);
});
afterEach(() => lab[Symbol.asyncDispose]());

const refused = { status: 401, body: { error: { code: "host_certificate_refused" } } };

async function ofAnotherAuthority(name: string): Promise<Shown> {
  const made = await CertificateAuthority.make(new Date());
  const authority = await CertificateAuthority.open(made.certificatePem, made.privateKeyPem);
  const pair = await makeKeyPair();
  return { cert: (await authority.issue(name, pair.publicKey, new Date())).pem, key: pair.privateKeyPem };
}

test("without a certificate, with another authority's, an expired one, one that is no host's or was never given out, nothing is answered", async () => {
  const host = await lab.register("rack-1");
  const strangers: (Shown | undefined)[] = [
    undefined,
    await ofAnotherAuthority(hostName(host.id)),
    await lab.forge(hostName(host.id), -minute),
    await lab.forge("roost://control-plane"),
    await lab.forge(`${hostName(host.id)}/x`),
    await lab.forge("https://example.org"),
    await lab.forge(hostName(host.id)),
  ];
  const csr_pem = await makeRequest(await makeKeyPair());
  for (const shown of strangers) {
    expect(await lab.beat(shown)).toMatchObject(refused);
    expect(await lab.post(hostPortPaths.certificate, { csr_pem }, shown)).toMatchObject(refused);
  }
  expect((await lab.beat(host.shown)).status).toBe(200);
});

test("refusals come before the body is read", async () => {
  expect(await lab.post(hostPortPaths.heartbeat, "{")).toMatchObject(refused);
});

test("a certificate speaks for its own host only", async () => {
  const [one, two] = [await lab.register("one"), await lab.register("two")];
  await lab.beat(one.shown, { address: "10.9.9.9:1" });
  expect((await lab.platform.administration.get(one.id)).address).toBe("10.9.9.9:1");
  expect((await lab.platform.administration.get(two.id)).address).toBe("127.0.0.1:7072");
});

test("a deleted host is told so at once, and its certificate is good for nothing", async () => {
  const host = await lab.register("rack-1");
  expect((await lab.beat(host.shown)).status).toBe(200);
  await lab.platform.administration.delete(lab.operator, host.id, { force: false });
  expect(await lab.beat(host.shown)).toMatchObject({ status: 410, body: { error: { code: "host_deleted" } } });
  expect((await lab.post(hostPortPaths.certificate, { csr_pem: "x" }, host.shown)).status).toBe(410);
});

test("only TLS 1.3 is spoken, and the authority's certificate comes along for those who register", async () => {
  const old = await new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port: lab.port, maxVersion: "TLSv1.2", rejectUnauthorized: false }, () =>
      resolve("connected"),
    );
    socket.on("error", () => resolve("refused"));
  });
  expect(old).toBe("refused");
  const fingerprint = await new Promise<string>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port: lab.port, rejectUnauthorized: false }, () => {
      const { issuerCertificate } = socket.getPeerCertificate(true);
      socket.destroy();
      resolve(issuerCertificate.fingerprint256.replaceAll(":", "").toLowerCase());
    });
    socket.on("error", reject);
  });
  expect(fingerprint).toBe(lab.authority.fingerprint);
});

test("a host that sends too much is told to wait, before the database is asked, and no other notices", async () => {
  const [busy, calm] = [await lab.register("busy"), await lab.register("calm")];
  const statuses: number[] = [];
  for (let index = 0; index < 30; index += 1) statuses.push((await lab.beat(busy.shown)).status);
  expect(new Set(statuses)).toEqual(new Set([200, 429]));
  expect(statuses.indexOf(429)).toBe(23); // 20 and three times the one heartbeat in 10 s
  expect(await lab.beat(busy.shown)).toMatchObject({ status: 429, body: { error: { code: "rate_limited" } } });
  expect((await lab.beat(calm.shown)).status).toBe(200);
});

test("who shows no certificate cannot take all connections: the oldest of theirs go", async () => {
  const host = await lab.register("rack-1");
  const strangers: Socket[] = [];
  let ended = 0;
  const open = async () => {
    const socket = connectTcp(lab.port, "127.0.0.1");
    socket.on("error", () => undefined);
    socket.once("close", () => (ended += 1));
    strangers.push(socket);
    await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
  };
  try {
    for (let index = 0; index < 560; index += 1) await open();
    await expect.poll(() => ended, { timeout: 10_000 }).toBeGreaterThanOrEqual(560 - 512);
    expect(strangers[0]?.closed).toBe(true);
    expect(strangers.at(-1)?.closed).toBe(false);
    expect((await lab.beat(host.shown)).status).toBe(200);
  } finally {
    for (const socket of strangers) socket.destroy();
  }
});

test("one host cannot take all connections either", async () => {
  const host = await lab.register("rack-1");
  const sockets = Array.from({ length: 12 }, () =>
    connect({ host: "127.0.0.1", port: lab.port, cert: host.shown.cert, key: host.shown.key, rejectUnauthorized: false }),
  );
  for (const socket of sockets) socket.on("error", () => undefined);
  try {
    await expect.poll(() => sockets.filter((socket) => socket.closed).length, { timeout: 10_000 }).toBe(4);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
});
