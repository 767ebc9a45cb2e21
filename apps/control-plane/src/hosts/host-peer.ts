import type { ConnectionOptions, PeerCertificate, SecureContext, SecureContextOptions } from "node:tls";

import { certificateName, hostName, parseHostAddress } from "@roost/contract";
import { minute, must, second } from "@roost/kit";

/** Certificates are valid from this long before they are issued, in `ms`: clocks of hosts may be behind */
export const certificateBackdateMs = 5 * minute;
/** Time in `ms` that a replaced certificate still works after the new one was used: for requests that were on their way */
const replacedGraceMs = 1 * minute;

/** What is known of the certificates of a host. */
export interface KnownCertificates {
  /** SHA-256 of the one issued last, hex */
  readonly current: string | null;
  readonly timeIssued: Date | null;
  /** Of the one before it, while that is good as well */
  readonly previous: string | null;
}

/** The control plane's own certificate, key and authority, all PEM. */
export interface OwnIdentity {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** A remote host agent as something to connect to: where it is now, who we are, and how it is recognized. */
export interface HostPeer {
  readonly hostId: string;
  /** For `tls.connect`, as of now; ALPN is the caller's. */
  tls(): ConnectionOptions & { readonly host: string; readonly port: number };
}

export interface HostPeerParts {
  /** `host:port` where its agent listens now */
  readonly address: () => string;
  /** The control plane's certificate and authority as they are now */
  readonly secureContext: () => SecureContext;
  readonly certificates: () => KnownCertificates;
}

/** Connections to it fail unless the peer has a certificate of our authority that names this very host and was not replaced by another. */
export function hostPeer(hostId: string, parts: HostPeerParts): HostPeer {
  return {
    hostId,
    tls: () => ({
      ...must(parseHostAddress(parts.address()), "recorded addresses have been checked"),
      secureContext: parts.secureContext(),
      rejectUnauthorized: true,
      // the name that counts is not one of the DNS; without it Node would send the address
      servername: "",
      checkServerIdentity: (_name, certificate) => wrongHost(hostId, certificate, parts.certificates()),
    }),
  };
}

/** The context of connections to hosts, and what the host port serves with. */
export function contextOf(identity: OwnIdentity): SecureContextOptions {
  return { ...identity, minVersion: "TLSv1.3" };
}

/** No connection came to be in time. */
export class NotConnectedError extends Error {
  override readonly name = "NotConnectedError";
  /** As other errors of connections have */
  readonly code = "ERR_NOT_CONNECTED";
}

/** Somebody else answers where a host should. */
export class WrongHostError extends Error {
  override readonly name = "WrongHostError";
  /** As other errors of connections have */
  readonly code = "ERR_WRONG_HOST";
}

/** Why a peer with this certificate is not the host; undefined when it is. The chain has been verified. */
export function wrongHost(
  hostId: string,
  certificate: Pick<PeerCertificate, "subjectaltname" | "fingerprint256" | "valid_from">,
  known: KnownCertificates,
): Error | undefined {
  const name = certificateName(certificate.subjectaltname);
  if (name !== hostName(hostId)) return new WrongHostError(`the peer is ${name ?? "nobody we know"}, not ${hostName(hostId)}`);
  const fingerprint = plainFingerprint(certificate.fingerprint256);
  if (fingerprint === known.current || fingerprint === known.previous) return undefined;
  // One that another control plane issued a moment ago is not known here yet; one that is older than what is known was replaced.
  const timeIssued = Date.parse(certificate.valid_from) + certificateBackdateMs;
  const isNewer = known.timeIssued === null || timeIssued + second > known.timeIssued.getTime();
  return isNewer ? undefined : new WrongHostError(`the certificate ${fingerprint} of ${hostName(hostId)} was replaced`);
}

/** Node writes `AB:CD:…`. */
export function plainFingerprint(fingerprint256: string): string {
  return fingerprint256.replaceAll(":", "").toLowerCase();
}

/** Whether a host that has a newer certificate may still use the one before it: for as long as it has not shown the newer one, and a moment longer. */
export function isPreviousGood(host: { readonly time_certificate_used: Date | null }, now: Date): boolean {
  return host.time_certificate_used === null || now.getTime() - host.time_certificate_used.getTime() <= replacedGraceMs;
}
