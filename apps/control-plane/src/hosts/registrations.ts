import { createHash } from "node:crypto";

import {
  hostName,
  newToken,
  parseRegistrationToken,
  PlatformError,
  type HostCertificate,
  type HostToken,
  type RegisterHostBody,
} from "@roost/contract";
import { hour, minute, type Logger } from "@roost/kit";

import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import {
  lockRegistration,
  markCertificateUsed,
  recordRegistered,
  recordRenewed,
  replaceRegistration,
  useRegistration,
} from "../db/host-certificates.ts";
import { findHost, type HostRow } from "../db/hosts.ts";
import { emit } from "../events/outbox.ts";
import { keyOfRequest, type CertificateAuthority } from "./certificates.ts";
import { hostCaller } from "./host-caller.ts";
import { isPreviousGood } from "./host-peer.ts";

/** How long a registration token works in `ms` */
const tokenLifeMs = 1 * hour;
/** Time in `ms` within which the same host may ask again for the certificate that its token got: the answer may have been lost */
const repeatMs = 1 * minute;

export interface RegistrationsDependencies {
  readonly db: Db;
  readonly authority: CertificateAuthority;
  readonly audit: Audit;
  readonly leaseMs: number;
  /** Called when a host registered. */
  readonly onRegistered: (hostId: string) => void;
  readonly log: Logger;
  readonly now: () => Date;
}

/** Tokens and certificates of hosts. */
export class Registrations {
  readonly #deps: RegistrationsDependencies;

  constructor(deps: RegistrationsDependencies) {
    this.#deps = deps;
  }

  /** A token for a host, which makes its earlier ones useless. In the caller's transaction. */
  async issueToken(db: Db, hostId: string): Promise<HostToken> {
    const now = this.#deps.now();
    const secret = newToken();
    const timeExpires = new Date(now.getTime() + tokenLifeMs);
    await replaceRegistration(db, hostId, hashOf(secret), now, timeExpires);
    return { token: `${secret}.${this.#deps.authority.fingerprint.slice(0, 32)}`, time_expires: timeExpires.toISOString() };
  }

  /** The first certificate of a host, for a token. */
  async register(body: RegisterHostBody, requestId: string, address: string | null): Promise<HostCertificate> {
    const { authority, log } = this.#deps;
    const token = parseRegistrationToken(body.token);
    if (token === undefined || !authority.fingerprint.startsWith(token.fingerprint)) throw tokenInvalid();
    const key = await keyOfRequest(body.csr_pem);
    const tokenHash = hashOf(token.secret);
    const outcome = await this.#deps.db.transaction().execute(async (transaction): Promise<HostCertificate | "misused"> => {
      const now = this.#deps.now();
      const registration = await lockRegistration(transaction, tokenHash);
      if (registration === undefined) throw tokenInvalid();
      const hostId = registration.host_id;
      if (registration.time_used !== null) {
        const isSameKey = registration.key_hash !== null && key.hash.equals(registration.key_hash);
        if (isSameKey && registration.certificate_pem !== null && now.getTime() - registration.time_used.getTime() <= repeatMs) {
          return { host_id: hostId, certificate_pem: registration.certificate_pem, ca_pem: authority.pem };
        }
        const row = await findHost(transaction, hostId);
        if (row === undefined) throw tokenInvalid();
        const caller = hostCaller(row, requestId, address);
        const detail = { why: isSameKey ? "a used token, again" : "a used token, with another key: it may have been stolen" };
        await this.#deps.audit.record(transaction, caller, {
          action: "host.register",
          resource: { kind: "host", id: hostId },
          scope: "admin",
          status: "failure",
          detail,
        });
        log.error(
          { hostId, address, ...detail },
          "a registration token that was used already was refused; if nobody can explain it, delete the host",
        );
        return "misused";
      }
      const certificate = await authority.issue(hostName(hostId), key.publicKey, now);
      if (!(await useRegistration(transaction, tokenHash, { keyHash: key.hash, certificatePem: certificate.pem }, now)))
        throw tokenInvalid();
      const leaseEnds = new Date(now.getTime() + this.#deps.leaseMs);
      const row = await recordRegistered(transaction, hostId, { address: body.address, certificate, leaseEnds });
      const caller = hostCaller(row, requestId, address);
      await emit(transaction, {
        kind: "host.registered",
        teamId: row.team_id,
        subject: { kind: "host", id: hostId },
        actor: caller.actor,
        message: `host ${row.name} registered`,
        detail: { address: body.address, agent_version: body.description.agent_version },
        time: now,
      });
      await this.#deps.audit.record(transaction, caller, {
        action: "host.register",
        resource: { kind: "host", id: hostId },
        scope: "admin",
        detail: { address: body.address, certificate: certificate.fingerprint },
      });
      log.info({ hostId, address: body.address, certificate: certificate.fingerprint }, "a host registered");
      return { host_id: hostId, certificate_pem: certificate.pem, ca_pem: authority.pem };
    });
    if (outcome === "misused") throw tokenInvalid();
    this.#deps.onRegistered(outcome.host_id);
    return outcome;
  }

  /**
   * Whose certificate this is, now: the host's record. It must be the newest of the host, or the one before it as long as the newest was never used, or was
   * first used a moment ago. So whoever copied a certificate is shut out when the host uses its next one, and the other way round it is noticed.
   */
  async authenticate(hostId: string, fingerprint: string): Promise<HostRow> {
    const now = this.#deps.now();
    const row = await findHost(this.#deps.db, hostId);
    if (row === undefined) {
      throw new PlatformError("host_deleted", `host ${hostId} was deleted; it is no part of this installation any more`);
    }
    if (row.certificate_fingerprint === fingerprint) {
      if (row.time_certificate_used === null) await markCertificateUsed(this.#deps.db, hostId, fingerprint, now);
      return row;
    }
    if (row.previous_fingerprint === fingerprint && isPreviousGood(row, now)) return row;
    this.#deps.log.warn({ hostId, fingerprint }, "a certificate that was replaced was refused; somebody may have copied it");
    throw new PlatformError(
      "host_certificate_refused",
      `this certificate of host ${hostId} was replaced by a newer one; if the host does not have that, register it again with a new token (roost host token ${hostId})`,
    );
  }

  /** The next certificate of a host that showed `fingerprint`. */
  async renew(hostId: string, fingerprint: string, csrPem: string): Promise<HostCertificate> {
    const { authority, log } = this.#deps;
    const key = await keyOfRequest(csrPem);
    const certificate = await authority.issue(hostName(hostId), key.publicKey, this.#deps.now());
    const row = await recordRenewed(this.#deps.db, hostId, fingerprint, certificate);
    if (row === undefined) {
      throw new PlatformError(
        "host_certificate_refused",
        `host ${hostId} has a newer certificate and used it: that one can be renewed, not this one`,
      );
    }
    log.info({ hostId, certificate: certificate.fingerprint, timeExpires: certificate.timeExpires }, "a host's certificate was renewed");
    return { host_id: hostId, certificate_pem: certificate.pem, ca_pem: authority.pem };
  }
}

function hashOf(secret: string): Buffer {
  return createHash("sha256").update(Buffer.from(secret, "hex")).digest();
}

/** One answer for all, so that nobody learns which tokens there were. */
function tokenInvalid(): PlatformError {
  return new PlatformError(
    "registration_token_invalid",
    "this registration token was used, has expired, or is not of this control plane; make another with `roost host token <host>`",
  );
}
