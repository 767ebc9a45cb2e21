import type { SecretBox } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { findAuthority, insertAuthority } from "../db/host-certificates.ts";
import { CertificateAuthority } from "./certificates.ts";

const context = "certificate_authority";

/** The installation's authority, made by the first control plane that needs it. Its key is in the database, sealed, so that all of them sign with the same. */
export async function openAuthority(db: Db, box: SecretBox, now: Date): Promise<CertificateAuthority> {
  const row = (await findAuthority(db)) ?? (await makeRow(db, box, now));
  let key: string;
  try {
    key = box.open(row.sealed_key, context);
  } catch (error) {
    throw new Error(
      "the key of the hosts' certificate authority cannot be opened: ROOST_SECRET_KEY (or the file secret-key in the state folder) is not the one it was sealed with; put that back",
      { cause: error },
    );
  }
  return CertificateAuthority.open(row.certificate_pem, key);
}

async function makeRow(db: Db, box: SecretBox, now: Date): ReturnType<typeof insertAuthority> {
  const made = await CertificateAuthority.make(now);
  return insertAuthority(db, { certificate_pem: made.certificatePem, sealed_key: box.seal(made.privateKeyPem, context) }, now);
}
