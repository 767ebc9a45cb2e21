import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { ownPath, TrustedAuthority, trustVariables } from "./trusted-authority.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "roost-trust-"));
});
afterEach(() => rmSync(root, { recursive: true }));

const others = "-----BEGIN CERTIFICATE-----\nT3RoZXJz\n-----END CERTIFICATE-----\n";
const mine = "-----BEGIN CERTIFICATE-----\nTWluZQ==\n-----END CERTIFICATE-----\n";
const next = "-----BEGIN CERTIFICATE-----\nTmV4dA==\n-----END CERTIFICATE-----\n";
const read = (path: string) => readFileSync(join(root, path), "utf8");
const bundle = "/etc/ssl/certs/ca-certificates.crt";

function debian(): TrustedAuthority {
  for (const folder of ["etc/ssl/certs", "usr/local/share/ca-certificates"]) mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, bundle), others);
  return new TrustedAuthority(root);
}

test("the system's list has it beside the others, once, and loses it again", () => {
  const trusted = debian();
  expect(trusted.isInstalled).toBe(false);
  expect(trusted.install(mine)).toEqual({ own: ownPath, bundle });
  const once = read(bundle);
  expect(once.startsWith(others)).toBe(true);
  expect(once.endsWith(mine)).toBe(true);
  expect([read("usr/local/share/ca-certificates/roost-sandbox.crt"), read(ownPath)]).toEqual([mine, mine]);
  const { ino } = statSync(join(root, bundle));
  trusted.install(mine);
  expect([read(bundle), statSync(join(root, bundle)).ino]).toEqual([once, ino]);
  trusted.install(next);
  expect(read(bundle)).toBe(once.replace(mine, next));
  expect(trusted.isInstalled).toBe(true);
  expect(trusted.install("")).toBeUndefined();
  expect(read(bundle)).toBe(others);
  expect([trusted.isInstalled, readdirSync(join(root, "usr/local/share/ca-certificates"))]).toEqual([false, []]);
});

test("a list that several names lead to is changed once, and stays a link", () => {
  const trusted = debian();
  symlinkSync("certs/ca-certificates.crt", join(root, "etc/ssl/cert.pem"));
  mkdirSync(join(root, "etc/pki/tls/certs"), { recursive: true });
  symlinkSync("nowhere", join(root, "etc/pki/tls/certs/ca-bundle.crt"));
  trusted.install(mine);
  expect(read("etc/ssl/cert.pem").split(mine)).toHaveLength(2);
  expect(readdirSync(join(root, "etc/ssl/certs"))).toEqual(["ca-certificates.crt"]);
});

test("a guest without lists has the certificate alone, and programs are told of no list", () => {
  const trusted = new TrustedAuthority(root);
  const files = trusted.install(mine);
  expect(files).toEqual({ own: ownPath, bundle: null });
  expect(trustVariables(files)).toEqual({ NODE_EXTRA_CA_CERTS: ownPath });
  expect(trustVariables({ own: "/a", bundle: "/b" })).toEqual({ NODE_EXTRA_CA_CERTS: "/a", SSL_CERT_FILE: "/b", REQUESTS_CA_BUNDLE: "/b" });
  expect(trustVariables(undefined)).toEqual({});
});

test("what is no file is left alone", () => {
  const trusted = debian();
  rmSync(join(root, bundle));
  mkdirSync(join(root, bundle));
  expect(trusted.install(mine)).toEqual({ own: ownPath, bundle: null });
});
