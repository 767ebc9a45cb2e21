import { X509Certificate } from "node:crypto";

import { controlPlaneName } from "@roost/contract";
import { hour } from "@roost/kit";
import { expect, test } from "vitest";

import { CertificateAuthority } from "./certificates.ts";
import type { OwnIdentity } from "./host-peer.ts";
import { ControlPlaneIdentity } from "./own-identity.ts";

test("the control plane's own certificate is renewed after two thirds of its life, with a new key, and whoever shows it is told", async () => {
  const start = Date.now();
  let now = start;
  const made = await CertificateAuthority.make(new Date(start));
  const authority = await CertificateAuthority.open(made.certificatePem, made.privateKeyPem);
  const identity = await ControlPlaneIdentity.make(authority, () => new Date(now));
  const told: OwnIdentity[] = [];
  identity.onChange((next) => told.push(next));
  const first = identity.present;
  const certificate = new X509Certificate(first.cert);
  expect(certificate.subjectAltName).toBe(`URI:${controlPlaneName}`);
  expect(Date.parse(certificate.validTo) - start).toBeLessThanOrEqual(7 * 24 * hour);
  now = start + 4.6 * 24 * hour;
  await identity.renewWhenDue();
  expect(identity.present).toBe(first);
  now = start + 4.7 * 24 * hour;
  await identity.renewWhenDue();
  expect(told).toEqual([identity.present]);
  expect(identity.present.key).not.toBe(first.key);
  expect(Date.parse(new X509Certificate(identity.present.cert).validTo)).toBeGreaterThan(Date.parse(certificate.validTo));
  await identity.renewWhenDue();
  expect(told).toHaveLength(1);
});
