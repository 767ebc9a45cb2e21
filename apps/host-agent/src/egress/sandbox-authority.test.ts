import { X509Certificate } from "node:crypto";
import { connect, createServer, type SecureContext } from "node:tls";

import { must } from "@roost/kit";
import { expect, test } from "vitest";

import { authorityFor, Leaves } from "./sandbox-authority.ts";

const make = async (...domains: string[]) => must(await authorityFor(domains, null), "an authority");

test("it is the same for the same domains, in whatever order, and another one for others; for none there is none", async () => {
  const one = await make("b.example.com", "*.a.example.com");
  expect(await authorityFor(["*.a.example.com", "b.example.com"], one)).toBe(one);
  const other = must(await authorityFor(["b.example.com"], one), "another one");
  expect(other.privateKeyPem).not.toBe(one.privateKeyPem);
  expect(await authorityFor([], one)).toBeNull();
  expect(await authorityFor([], null)).toBeNull();
});

test("its certificate has no key in it, signs nothing but leaves, and is valid for a guest whose clock is late", async () => {
  const { certificatePem } = await make("api.example.com");
  expect(certificatePem).toMatch(/^-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----\n$/);
  const certificate = new X509Certificate(certificatePem);
  expect(certificate.ca).toBe(true);
  expect(new Date(certificate.validFrom).getTime()).toBeLessThan(Date.now() - 23 * 3_600_000);
});

test("leaves are made once for each name, and those that are used least go", async () => {
  const leaves = new Leaves(await make("*.example.com"));
  const first = await leaves.contextFor("a.example.com");
  expect(await leaves.contextFor("a.example.com")).toBe(first);
  for (let index = 0; index < 40; index += 1) {
    await leaves.contextFor(`n${index}.example.com`);
    if (index % 10 === 0) expect(await leaves.contextFor("a.example.com"), "used again and again").toBe(first);
  }
  const early = await leaves.contextFor("n39.example.com");
  for (let index = 50; index < 90; index += 1) await leaves.contextFor(`n${index}.example.com`);
  expect(await leaves.contextFor("n39.example.com"), "made anew").not.toBe(early);
});

/** How a client that trusts nobody but the authority likes a leaf of its: undefined, or what it says against it. */
async function verdict(context: SecureContext, ca: string, servername: string): Promise<string | undefined> {
  const server = createServer({ SNICallback: (_name, done) => done(null, context) });
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { readonly port: number };
  try {
    return await new Promise((resolve) => {
      const socket = connect({ host: "127.0.0.1", port, servername, ca }, () => {
        resolve(undefined);
        socket.destroy();
      });
      socket.on("error", (error) => resolve(error.message));
    });
  } finally {
    server.close();
  }
}

test("clients believe it for its domains alone, also for long names and below patterns", async () => {
  const authority = await make("api.example.com", "*.wild.example.com");
  const leaves = new Leaves(authority);
  const long = `${"a".repeat(60)}.${"b".repeat(50)}.wild.example.com`;
  for (const name of ["api.example.com", "x.wild.example.com", long])
    expect(await verdict(await leaves.contextFor(name), authority.certificatePem, name), name).toBeUndefined();
  for (const name of ["other.example.com", "example.com", "api.example.com.evil.test"])
    expect(await verdict(await leaves.contextFor(name), authority.certificatePem, name), name).toBe("permitted subtree violation");
  const another = await make("api.example.com");
  expect(await verdict(await leaves.contextFor("api.example.com"), another.certificatePem, "api.example.com")).toBeDefined();
});
