import { X509Certificate } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import { hostAddressSchema, hostIdSchema } from "@roost/contract";
import { writeFileDurably } from "@roost/kit";
import { z } from "zod";

/**
 * What makes this machine a host of a control plane: its id, its key and the certificate for it, and the authority by which it knows the control plane. One file, readable
 * by its owner only and replaced as a whole, so that key and certificate always belong together. Whoever has it is the host.
 */
const hostIdentitySchema = z.object({
  formatVersion: z.literal(1),
  hostId: hostIdSchema,
  /** URL of the control plane's host port */
  controlPlane: z.url(),
  /** `host:port` where the control plane reaches this host */
  address: hostAddressSchema,
  keyPem: z.string(),
  certificatePem: z.string(),
  caPem: z.string(),
  /** SHA-256 of the token that it was registered with: that one is used up */
  tokenDigest: z.string(),
});
export type HostIdentity = z.output<typeof hostIdentitySchema>;

/** A registration that may have been cut off: asked again with the same key, the control plane answers the same. */
const pendingRegistrationSchema = z.object({
  formatVersion: z.literal(1),
  tokenDigest: z.string(),
  keyPem: z.string(),
  requestPem: z.string(),
});
export type PendingRegistration = z.output<typeof pendingRegistrationSchema>;

export const identityPath = (dir: string) => join(dir, "host-identity.json");
const pendingPath = (dir: string) => join(dir, "host-registration.json");

/** Undefined when this machine was never registered; rejects when the file is damaged. */
export async function readIdentity(dir: string): Promise<HostIdentity | undefined> {
  const text = await readIfThere(identityPath(dir));
  if (text === undefined) return undefined;
  try {
    return hostIdentitySchema.parse(JSON.parse(text));
  } catch (error) {
    throw new Error(`${identityPath(dir)} is damaged: restore it, or register this host again with a new token`, { cause: error });
  }
}

export async function writeIdentity(dir: string, identity: HostIdentity): Promise<void> {
  await writeFileDurably(identityPath(dir), `${JSON.stringify(identity)}\n`, { mode: 0o600 });
}

/** One that cannot be read is as good as none. */
export async function readPending(dir: string): Promise<PendingRegistration | undefined> {
  try {
    return pendingRegistrationSchema.parse(JSON.parse((await readIfThere(pendingPath(dir))) ?? ""));
  } catch {
    return undefined;
  }
}

export async function writePending(dir: string, pending: PendingRegistration): Promise<void> {
  await writeFileDurably(pendingPath(dir), `${JSON.stringify(pending)}\n`, { mode: 0o600 });
}

export async function removePending(dir: string): Promise<void> {
  await rm(pendingPath(dir), { force: true });
}

/** When a certificate is valid, in Unix `ms`. */
export function lifeOf(certificatePem: string): { readonly fromMs: number; readonly toMs: number } {
  const { validFrom, validTo } = new X509Certificate(certificatePem);
  return { fromMs: Date.parse(validFrom), toMs: Date.parse(validTo) };
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}
