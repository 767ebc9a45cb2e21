import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { HostRow } from "./hosts.ts";
import type { CertificateAuthorityTable, HostRegistrationTable } from "./schema-hosts.ts";

export type RegistrationRow = Selectable<HostRegistrationTable>;
export type AuthorityRow = Pick<Selectable<CertificateAuthorityTable>, "certificate_pem" | "sealed_key">;

/** Of a certificate, what is recorded. */
export interface IssuedCertificate {
  readonly fingerprint: string;
  readonly timeIssued: Date;
  readonly timeExpires: Date;
}

/** The host's one token from now on; those it had and did not use stop working. In a transaction. */
export async function replaceRegistration(db: Db, hostId: string, tokenHash: Uint8Array, now: Date, timeExpires: Date): Promise<void> {
  await db.deleteFrom("host_registration").where("host_id", "=", hostId).where("time_used", "is", null).execute();
  await db
    .insertInto("host_registration")
    .values({ token_hash: tokenHash, host_id: hostId, time_created: now, time_expires: timeExpires })
    .execute();
}

/** Takes the row, so that of two registrations with the same token the second sees what the first did. In a transaction. */
export async function lockRegistration(db: Db, tokenHash: Uint8Array): Promise<RegistrationRow | undefined> {
  return db.selectFrom("host_registration").selectAll().where("token_hash", "=", tokenHash).forUpdate().executeTakeFirst();
}

/** Uses a token, once: false when it was used or has expired. */
export async function useRegistration(
  db: Db,
  tokenHash: Uint8Array,
  use: { readonly keyHash: Uint8Array; readonly certificatePem: string },
  now: Date,
): Promise<boolean> {
  const result = await db
    .updateTable("host_registration")
    .set({ time_used: now, key_hash: use.keyHash, certificate_pem: use.certificatePem })
    .where("token_hash", "=", tokenHash)
    .where("time_used", "is", null)
    .where("time_expires", ">", now)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** A host has registered: its first certificate, or one in place of all it had. */
export async function recordRegistered(
  db: Db,
  id: string,
  host: { readonly address: string; readonly certificate: IssuedCertificate; readonly leaseEnds: Date },
): Promise<HostRow> {
  const { certificate } = host;
  return db
    .updateTable("host")
    .set((row) => ({
      state: sql<HostRow["state"]>`CASE WHEN state = 'pending' THEN 'ready' ELSE state END`,
      address: host.address,
      certificate_fingerprint: certificate.fingerprint,
      time_certificate_issued: certificate.timeIssued,
      time_certificate_expires: certificate.timeExpires,
      time_certificate_used: null,
      previous_fingerprint: null,
      time_lease_ends: host.leaseEnds,
      generation: row("generation", "+", 1),
    }))
    .where("id", "=", id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/**
 * The next certificate of a host that showed the one with `shown`, which stays good for a while. Undefined when the host has another one
 * by now that was used already, or is gone.
 */
export async function recordRenewed(db: Db, id: string, shown: string, certificate: IssuedCertificate): Promise<HostRow | undefined> {
  return db
    .updateTable("host")
    .set({
      certificate_fingerprint: certificate.fingerprint,
      time_certificate_issued: certificate.timeIssued,
      time_certificate_expires: certificate.timeExpires,
      time_certificate_used: null,
      previous_fingerprint: shown,
    })
    .where("id", "=", id)
    .where((where) =>
      where.or([
        where("certificate_fingerprint", "=", shown),
        where.and([where("previous_fingerprint", "=", shown), where("time_certificate_used", "is", null)]),
      ]),
    )
    .returningAll()
    .executeTakeFirst();
}

/** The host has shown its newest certificate: from now on the one before it is good for a grace period only. */
export async function markCertificateUsed(db: Db, id: string, fingerprint: string, now: Date): Promise<void> {
  await db
    .updateTable("host")
    .set({ time_certificate_used: now })
    .where("id", "=", id)
    .where("certificate_fingerprint", "=", fingerprint)
    .where("time_certificate_used", "is", null)
    .execute();
}

export async function findAuthority(db: Db): Promise<AuthorityRow | undefined> {
  return db.selectFrom("certificate_authority").select(["certificate_pem", "sealed_key"]).where("id", "=", 1).executeTakeFirst();
}

/** Records the authority unless another control plane has; what is recorded then. */
export async function insertAuthority(db: Db, authority: AuthorityRow, now: Date): Promise<AuthorityRow> {
  await db
    .insertInto("certificate_authority")
    .values({ id: 1, ...authority, time_created: now })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  return db.selectFrom("certificate_authority").select(["certificate_pem", "sealed_key"]).where("id", "=", 1).executeTakeFirstOrThrow();
}
