import { createHash } from "node:crypto";

import { hostCertificateSchema, hostPortPaths, parseRegistrationToken, PlatformError, type HostDescription } from "@roost/contract";
import { minute, second, sleep, type Logger } from "@roost/kit";

import { ControlPlaneAwayError, ControlPlanePort, findAuthority, WrongControlPlaneError } from "./control-plane-port.ts";
import { readPending, removePending, writeIdentity, writePending, type HostIdentity, type PendingRegistration } from "./host-identity.ts";
import { makeKeyAndRequest } from "./key-and-request.ts";

/** How long a control plane that does not answer is asked again, in `ms`: one that restarts is back by then */
const registerTimeoutMs = 1 * minute;
const retryMs = 2 * second;

export interface RegistrationOptions {
  readonly dir: string;
  readonly token: string;
  /** URL of the control plane's host port */
  readonly controlPlane: string;
  /** `host:port` where the control plane reaches this host */
  readonly address: string;
  readonly describe: () => Promise<HostDescription>;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

export function digestOf(token: string): string {
  return createHash("sha256").update(token.trim()).digest("hex");
}

/** Rejects with `WrongControlPlaneError` for what is no token, or not one of the control plane that answers there: before a host is started for it. */
export async function checkToken({ token, controlPlane }: Pick<RegistrationOptions, "token" | "controlPlane">): Promise<void> {
  await findAuthority(controlPlane, parsed(token).fingerprint);
}

/**
 * Makes this machine a host. The key is made here and stays; a registration whose answer was lost is asked again with the same key, also by the next process, and gets
 * the same answer. What was there of an earlier registration is replaced, once the new one is there.
 */
export async function register(options: RegistrationOptions): Promise<HostIdentity> {
  const { dir, controlPlane, log, signal } = options;
  const { fingerprint } = parsed(options.token);
  const pending = await pendingFor(dir, digestOf(options.token));
  const { keyPem, requestPem, tokenDigest } = pending;
  const endMs = performance.now() + registerTimeoutMs;
  for (;;) {
    try {
      const caPem = await findAuthority(controlPlane, fingerprint);
      const port = new ControlPlanePort(controlPlane, { caPem, own: null });
      const body = { token: options.token.trim(), csr_pem: requestPem, address: options.address, description: await options.describe() };
      const answer = await port.post(hostPortPaths.register, body, hostCertificateSchema, signal);
      const identity: HostIdentity = {
        formatVersion: 1,
        hostId: answer.host_id,
        controlPlane,
        address: options.address,
        keyPem,
        certificatePem: answer.certificate_pem,
        caPem, // what the token vouches for, not what was answered
        tokenDigest,
      };
      await writeIdentity(dir, identity);
      await removePending(dir);
      log.info({ hostId: identity.hostId, controlPlane }, "this machine is registered as a host");
      return identity;
    } catch (error) {
      if (error instanceof PlatformError || error instanceof WrongControlPlaneError) await removePending(dir);
      if (!(error instanceof ControlPlaneAwayError) || performance.now() > endMs) throw error;
      log.warn({ err: error }, "could not register, will try again");
      await sleep(retryMs, signal);
    }
  }
}

async function pendingFor(dir: string, tokenDigest: string): Promise<PendingRegistration> {
  const present = await readPending(dir);
  if (present?.tokenDigest === tokenDigest) return present;
  const pending: PendingRegistration = { formatVersion: 1, tokenDigest, ...(await makeKeyAndRequest()) };
  await writePending(dir, pending);
  return pending;
}

function parsed(token: string) {
  const found = parseRegistrationToken(token);
  if (found === undefined)
    throw new WrongControlPlaneError("this is no registration token: `roost host add` makes one, 64 hex digits, a dot, and 32 more");
  return found;
}
