import { once } from "node:events";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, createServer } from "node:tls";

import { run, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { EdgeCertificate, localAuthorityPath } from "./edge-certificate.ts";
import { issueLeaf, leafLifeMs, type PemPair } from "./local-certificates.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-tls-"));
});
afterEach(async () => rm(dir, { recursive: true, force: true }));

/** Whether a client that trusts the authority and asks for `name` goes on: `ok`, or what its library says. */
async function verdict(pem: PemPair, name: string): Promise<string> {
  const ca = await readFile(localAuthorityPath(dir), "utf8");
  const server = createServer({ cert: pem.certificatePem, key: pem.privateKeyPem }, (socket) => socket.end());
  const isAddress = /^[\d.]+$/.test(name);
  await once(server.listen(0, isAddress ? name : "127.0.0.1"), "listening");
  const socket = connect({
    port: (server.address() as AddressInfo).port,
    host: isAddress ? name : "127.0.0.1",
    ca,
    ...(isAddress ? {} : { servername: name }),
  });
  try {
    return await new Promise((resolve) => {
      socket.once("secureConnect", () => resolve("ok"));
      socket.once("error", (error: NodeJS.ErrnoException) =>
        resolve(error.code === undefined || error.code === "UNSPECIFIED" ? error.message : error.code),
      );
    });
  } finally {
    socket.destroy();
    server.close();
  }
}

async function authorityPair(): Promise<PemPair> {
  return {
    certificatePem: await readFile(localAuthorityPath(dir), "utf8"),
    privateKeyPem: await readFile(join(dir, "tls", "authority-key.pem"), "utf8"),
  };
}

describe("a local authority's", () => {
  test.each(["localhost", "127.0.0.1", "3000-i0000000000000000000a.sandbox.localhost", "8080-i1.boxes.example.org", "roost.example.org"])(
    "certificate is good for %s",
    async (name) => {
      const { pem } = await EdgeCertificate.open(
        { dir, domain: "boxes.example.org:7443", publicUrl: "https://roost.example.org" },
        silentLogger,
      );
      expect(await verdict(pem, name)).toBe("ok");
    },
  );

  test.each(["example.org", "a.b.sandbox.localhost"])("certificate is not for %s", async (name) => {
    const { pem } = await EdgeCertificate.open({ dir }, silentLogger);
    expect(await verdict(pem, name)).toBe("ERR_TLS_CERT_ALTNAME_INVALID");
  });

  test("stolen key is of no use for other names: clients do not believe what it signs", async () => {
    await EdgeCertificate.open({ dir }, silentLogger);
    const forged = await issueLeaf(await authorityPair(), { names: ["bank.example.org"], addresses: [] }, new Date());
    expect(await verdict(forged, "bank.example.org")).toMatch(/PERMITTED_VIOLATION|permitted subtree violation/);
    const byAddress = await issueLeaf(await authorityPair(), { names: [], addresses: ["127.0.0.2"] }, new Date());
    expect(await verdict(byAddress, "127.0.0.2")).toMatch(/PERMITTED_VIOLATION|permitted subtree violation/);
  });

  test("key is for its owner alone, and it stays the same as long as it will do", async () => {
    await EdgeCertificate.open({ dir }, silentLogger);
    expect((await stat(join(dir, "tls", "authority-key.pem"))).mode & 0o777).toBe(0o600);
    const before = await authorityPair();
    await EdgeCertificate.open({ dir }, silentLogger);
    expect(await authorityPair()).toEqual(before);
    await EdgeCertificate.open({ dir, domain: "boxes.example.org" }, silentLogger); // for which that one is not to be believed
    expect(await authorityPair()).not.toEqual(before);
  });

  test("chain is one that OpenSSL takes, strictly", async () => {
    const { pem } = await EdgeCertificate.open({ dir }, silentLogger);
    const leaf = join(dir, "leaf.pem");
    await writeFile(leaf, pem.certificatePem);
    expect(await run(["openssl", "verify", "-x509_strict", "-CAfile", localAuthorityPath(dir), leaf])).toContain("OK");
  });

  test("leaf is made anew when little of its life is left", async () => {
    let nowMs = Date.now();
    const certificate = await EdgeCertificate.open({ dir }, silentLogger, () => new Date(nowMs));
    const first = certificate.pem;
    expect(await certificate.refresh()).toBe(false);
    nowMs += (leafLifeMs * 3) / 4;
    expect(await certificate.refresh()).toBe(true);
    expect(certificate.pem.certificatePem).not.toBe(first.certificatePem);
    expect(await certificate.refresh()).toBe(false);
  });
});

describe("one's own certificate", () => {
  async function writeOwn(name: string): Promise<PemPair> {
    await EdgeCertificate.open({ dir }, silentLogger);
    const pem = await issueLeaf(await authorityPair(), { names: [name], addresses: [] }, new Date());
    await writeFile(join(dir, "own.pem"), pem.certificatePem);
    await writeFile(join(dir, "own-key.pem"), pem.privateKeyPem);
    return pem;
  }
  const paths = () => ({ dir, tlsCert: join(dir, "own.pem"), tlsKey: join(dir, "own-key.pem") });

  test("is served, and read again when it changes", async () => {
    const first = await writeOwn("a.sandbox.localhost");
    const certificate = await EdgeCertificate.open(paths(), silentLogger);
    expect(certificate.pem).toEqual(first);
    expect(await certificate.refresh()).toBe(false);
    const second = await writeOwn("b.sandbox.localhost");
    expect(await certificate.refresh()).toBe(true);
    expect(certificate.pem).toEqual(second);
  });

  test("that is half-way replaced does not take the place of a good one", async () => {
    const first = await writeOwn("a.sandbox.localhost");
    const certificate = await EdgeCertificate.open(paths(), silentLogger);
    const { certificatePem } = await issueLeaf(await authorityPair(), { names: ["b.sandbox.localhost"], addresses: [] }, new Date());
    await writeFile(join(dir, "own.pem"), certificatePem); // the key comes a moment later
    await expect(certificate.refresh()).rejects.toThrow(/not a certificate and its key/);
    expect(certificate.pem).toEqual(first);
  });

  test.each([
    [{ tlsCert: "/nowhere.pem", tlsKey: "/nowhere-key.pem" }, /ROOST_TLS_CERT: \/nowhere.pem cannot be read/],
    [{ tlsCert: "/nowhere.pem" }, /ROOST_TLS_CERT and ROOST_TLS_KEY go together/],
    [{ tlsKey: "/nowhere.pem" }, /ROOST_TLS_CERT and ROOST_TLS_KEY go together/],
  ])("%o is refused, and says why", async (given, message) => {
    await expect(EdgeCertificate.open({ dir, ...given }, silentLogger)).rejects.toThrow(message);
  });
});
