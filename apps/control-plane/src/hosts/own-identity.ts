import { certificateRenewAfter, controlPlaneName } from "@roost/contract";

import { certificateLifeMs, makeKeyPair, type CertificateAuthority } from "./certificates.ts";
import type { OwnIdentity } from "./host-peer.ts";

/** This control plane's own certificate: its key is only in memory, and each replica has its own. */
export class ControlPlaneIdentity {
  readonly #authority: CertificateAuthority;
  readonly #now: () => Date;
  readonly #listeners = new Set<(identity: OwnIdentity) => void>();
  #present: OwnIdentity;
  #timeRenewal: Date;

  private constructor(
    authority: CertificateAuthority,
    now: () => Date,
    first: { readonly identity: OwnIdentity; readonly timeRenewal: Date },
  ) {
    this.#authority = authority;
    this.#now = now;
    this.#present = first.identity;
    this.#timeRenewal = first.timeRenewal;
  }

  static async make(authority: CertificateAuthority, now: () => Date = () => new Date()): Promise<ControlPlaneIdentity> {
    return new ControlPlaneIdentity(authority, now, await issue(authority, now()));
  }

  get present(): OwnIdentity {
    return this.#present;
  }

  /** Called with each identity that takes the place of the one before. */
  onChange(listener: (identity: OwnIdentity) => void): void {
    this.#listeners.add(listener);
  }

  /** A new certificate where the present one is old enough. */
  async renewWhenDue(): Promise<void> {
    if (this.#now() < this.#timeRenewal) return;
    const next = await issue(this.#authority, this.#now());
    this.#present = next.identity;
    this.#timeRenewal = next.timeRenewal;
    for (const listener of this.#listeners) listener(next.identity);
  }
}

async function issue(authority: CertificateAuthority, now: Date): Promise<{ readonly identity: OwnIdentity; readonly timeRenewal: Date }> {
  const keys = await makeKeyPair();
  const certificate = await authority.issue(controlPlaneName, keys.publicKey, now);
  return {
    // Peers without a certificate yet compare the authority's with their token: it is sent along.
    identity: { ca: authority.pem, cert: `${certificate.pem}\n${authority.pem}\n`, key: keys.privateKeyPem },
    timeRenewal: new Date(now.getTime() + certificateLifeMs * certificateRenewAfter),
  };
}
