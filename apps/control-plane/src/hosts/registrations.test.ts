import { X509Certificate } from "node:crypto";

import { hostCertificateSchema, hostName, hostPortBodyBytesMax, hostPortPaths } from "@roost/contract";
import { createLogger, hour, minute } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { makeRequest, HostPortLab, shownOf, testDescription } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { makeKeyPair } from "./certificates.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
const lines: string[] = [];
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("host").execute();
  lines.length = 0;
  const log = createLogger({ level: "debug", destination: { write: (line) => void lines.push(line) } });
  lab = await HostPortLab.start(database, { log });
});
afterEach(() => lab[Symbol.asyncDispose]());

async function announce(name = "rack-1"): Promise<{ readonly id: string; readonly token: string }> {
  const { host, registration } = await lab.platform.administration.create(lab.operator, { name, tags: [], team_id: null });
  return { id: host.id, token: registration.token };
}

test("a host registers once with its token, and has a certificate for its own key and name", async () => {
  const { id, token } = await announce();
  expect((await lab.platform.administration.get(id)).state).toBe("pending");
  expect(token.split(".")[1]).toBe(lab.authority.fingerprint.slice(0, 32));
  const pair = await makeKeyPair();
  const answer = await lab.registerWith(token, await makeRequest(pair), "10.0.0.7:7072");
  expect(answer.status).toBe(200);
  const { certificate_pem: pem, host_id: hostId } = hostCertificateSchema.parse(answer.body);
  expect(hostId).toBe(id);
  const certificate = new X509Certificate(pem);
  expect(certificate.subjectAltName).toBe(`URI:${hostName(id)}`);
  expect(certificate.ca).toBe(false);
  expect(certificate.verify(new X509Certificate(lab.authority.pem).publicKey)).toBe(true);
  expect(await lab.platform.administration.get(id)).toMatchObject({
    state: "ready",
    is_reachable: true,
    address: "10.0.0.7:7072",
    certificate: { fingerprint: certificate.fingerprint256.replaceAll(":", "").toLowerCase() },
  });
  expect((await lab.beat(shownOf(hostCertificateSchema.parse(answer.body), pair))).status).toBe(200);
  const told = await database.db.selectFrom("event").select("kind").where("subject_id", "=", id).execute();
  expect(told.map(({ kind }) => kind)).toContain("host.registered");
  expect(lines.join("")).not.toContain(token.slice(0, 64));
  const [stored] = await database.db.selectFrom("host_registration").selectAll().execute();
  expect(Buffer.from(stored?.token_hash ?? []).toString("hex")).not.toBe(token.slice(0, 64));
});

test("a lost answer is given again to the same key within a minute; any other use is refused, and told to operators", async () => {
  const { id, token } = await announce();
  const csr = await makeRequest(await makeKeyPair());
  const first = await lab.registerWith(token, csr);
  const again = await lab.registerWith(token, csr);
  expect(again).toEqual(first);
  const thief = await lab.registerWith(token, await makeRequest(await makeKeyPair()));
  expect(thief).toMatchObject({ status: 401, body: { error: { code: "registration_token_invalid" } } });
  expect(lines.some((line) => line.includes('"level":"error"') && line.includes("may have been stolen"))).toBe(true);
  lab.clock.offsetMs += 61_000;
  expect((await lab.registerWith(token, csr)).status).toBe(401);
  expect((await lab.platform.administration.get(id)).certificate?.fingerprint).toBe(
    new X509Certificate(hostCertificateSchema.parse(first.body).certificate_pem).fingerprint256.replaceAll(":", "").toLowerCase(),
  );
  const failures = await database.db
    .selectFrom("audit_entry")
    .select("status")
    .where("resource_id", "=", id)
    .where("status", "=", "failure")
    .execute();
  expect(failures).toHaveLength(2);
});

test("of two that use a token at the same moment one gets a certificate", async () => {
  const { token } = await announce();
  const answers = await Promise.all(Array.from({ length: 4 }, async () => lab.registerWith(token, await makeRequest(await makeKeyPair()))));
  expect(answers.map(({ status }) => status).sort()).toEqual([200, 401, 401, 401]);
});

test("tokens that expired, were replaced, are of another control plane or no tokens at all are refused alike", async () => {
  const { id, token } = await announce();
  const csr = await makeRequest(await makeKeyPair());
  const refused = { status: 401, body: { error: { code: "registration_token_invalid" } } };
  for (const wrong of ["", "secret", `${"0".repeat(64)}.${token.slice(65)}`, `${token.slice(0, 64)}.${"0".repeat(32)}`]) {
    expect(await lab.registerWith(wrong, csr)).toMatchObject(refused);
  }
  const replacing = await lab.platform.administration.createToken(lab.operator, id);
  expect(await lab.registerWith(token, csr)).toMatchObject(refused);
  lab.clock.offsetMs += hour;
  expect(await lab.registerWith(replacing.token, csr)).toMatchObject(refused);
  expect((await lab.platform.administration.get(id)).state).toBe("pending");
});

test("of a certificate request only the key counts, and it has to be proven", async () => {
  const { id, token } = await announce();
  const pair = await makeKeyPair();
  const pem = await makeRequest(pair);
  const der = Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ""), "base64");
  der[der.length - 1] = (der.at(-1) ?? 0) ^ 1;
  const unproven = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString("base64")}\n-----END CERTIFICATE REQUEST-----`;
  for (const csr of ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", unproven, lab.authority.pem]) {
    expect(await lab.registerWith(token, csr)).toMatchObject({ status: 400, body: { error: { code: "request_invalid" } } });
  }
  const answer = await lab.registerWith(token, await makeRequest(pair, "roost://control-plane"));
  const certificate = new X509Certificate(hostCertificateSchema.parse(answer.body).certificate_pem);
  expect(certificate.subjectAltName).toBe(`URI:${hostName(id)}`);
  expect(certificate.subject).not.toContain("control-plane");
});

test("bodies that are too large, no JSON, or have other fields are refused, and no token is repeated", async () => {
  const { token } = await announce();
  const csr = await makeRequest(await makeKeyPair());
  const large = await lab.post(hostPortPaths.register, {
    token,
    csr_pem: "x".repeat(hostPortBodyBytesMax),
    address: "h:1",
    description: testDescription,
  });
  expect(large).toMatchObject({ status: 413, body: { error: { code: "request_too_large" } } });
  expect((await lab.post(hostPortPaths.register, "{")).status).toBe(400);
  const long = await lab.registerWith(`${token}${"0".repeat(100)}`, csr);
  expect(long.status).toBe(400);
  expect(JSON.stringify(long.body) + lines.join("")).not.toContain(token.slice(0, 16));
  for (const address of ["", "host", "host:0", "host:65536", "a b:1", "http://host:1", "user@host:1", "[::1:7"]) {
    expect((await lab.registerWith(token, csr, address)).status).toBe(400);
  }
  expect((await lab.post("/v1/hosts", {})).status).toBe(404);
});

test("guessing is slowed down", async () => {
  const csr = await makeRequest(await makeKeyPair());
  const statuses: number[] = [];
  for (let tries = 0; tries < 25; tries += 1) statuses.push((await lab.registerWith(`${"0".repeat(64)}.${"0".repeat(32)}`, csr)).status);
  expect(statuses.slice(0, 20).every((status) => status === 401)).toBe(true);
  expect(statuses.slice(20)).toEqual([429, 429, 429, 429, 429]);
});

test("a renewed certificate takes the place of the old one, which works until the new one was used and a moment longer", async () => {
  const host = await lab.register("rack-1");
  const pair = await makeKeyPair();
  const renewed = await lab.post(hostPortPaths.certificate, { csr_pem: await makeRequest(pair) }, host.shown);
  expect(renewed.status).toBe(200);
  // the answer may have been lost: the old one goes on, and may ask again
  expect((await lab.beat(host.shown)).status).toBe(200);
  const next = await makeKeyPair();
  const second = await lab.post(hostPortPaths.certificate, { csr_pem: await makeRequest(next) }, host.shown);
  expect(second.status).toBe(200);
  expect((await lab.beat(shownOf(hostCertificateSchema.parse(renewed.body), pair))).status).toBe(401);
  const shown = shownOf(hostCertificateSchema.parse(second.body), next);
  expect((await lab.beat(shown)).status).toBe(200);
  // the new one was used: who has the old one cannot make it another, and a minute later cannot do anything
  expect((await lab.beat(host.shown)).status).toBe(200);
  expect(await lab.post(hostPortPaths.certificate, { csr_pem: await makeRequest(pair) }, host.shown)).toMatchObject({
    status: 401,
    body: { error: { code: "host_certificate_refused" } },
  });
  lab.clock.offsetMs += 1 * minute + 1;
  expect(await lab.beat(host.shown)).toMatchObject({ status: 401, body: { error: { code: "host_certificate_refused" } } });
  expect((await lab.beat(shown)).status).toBe(200);
});

test("a host that lost its certificate registers again and keeps its state; the lost one is worth nothing", async () => {
  const host = await lab.register("rack-1");
  await lab.platform.administration.cordon(lab.operator, host.id);
  const { token } = await lab.platform.administration.createToken(lab.operator, host.id);
  const pair = await makeKeyPair();
  const answer = await lab.registerWith(token, await makeRequest(pair), "10.0.0.8:7072");
  expect(answer.status).toBe(200);
  expect(await lab.platform.administration.get(host.id)).toMatchObject({ state: "cordoned", address: "10.0.0.8:7072" });
  expect((await lab.beat(host.shown)).status).toBe(401);
  expect((await lab.beat(shownOf(hostCertificateSchema.parse(answer.body), pair))).status).toBe(200);
});
