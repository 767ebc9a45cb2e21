import "reflect-metadata"; // its decorators need it before it is loaded

import { isIP } from "node:net";

import { AsnConvert } from "@peculiar/asn1-schema";
import { GeneralName, GeneralSubtree, GeneralSubtrees, NameConstraints } from "@peculiar/asn1-x509";
import { ExtendedKeyUsage, Extension, X509Certificate } from "@peculiar/x509";
import { hour } from "@roost/kit";

import { importSigningKey, makeKeyPair, signAuthority, signLeaf } from "../hosts/certificates.ts";

/**
 * Certificates for browsers and SDKs on machines of one's own, where no public authority gives any: a local authority, which people tell their machine to trust, and leaves
 * that it signs.
 *
 * Whoever gets the authority's key could pretend to be anybody to these people. So it says of itself for which names alone it may be believed (RFC 5280, 4.2.1.10), and trusting it
 * risks no other site.
 */

const day = 24 * hour;
/** Life of the authority in `ms`: making another one means that everybody has to trust that */
export const authorityLifeMs = 3_653 * day;
/** Life of a leaf in `ms`; Apple's clients refuse more than 825 days, others will go below 100 */
export const leafLifeMs = 90 * day;
const constraintsId = "2.5.29.30";

export interface PemPair {
  readonly certificatePem: string;
  readonly privateKeyPem: string;
}

/** DNS names, and addresses of this machine. A DNS name stands for those below it, too. */
export interface AuthorityScope {
  readonly domains: readonly string[];
  readonly addresses: readonly string[];
}

/** A new authority that is to be believed for these names, and nothing else. */
export async function makeLocalAuthority({ domains, addresses }: AuthorityScope, now: Date): Promise<PemPair> {
  const keys = await makeKeyPair();
  const permitted = [
    ...domains.map((name) => new GeneralName({ dNSName: name })),
    ...addresses.map((address) => new GeneralName({ iPAddress: `${address}/${isIP(address) === 6 ? 128 : 32}` })),
  ];
  const constraints = new NameConstraints({
    permittedSubtrees: new GeneralSubtrees(permitted.map((base) => new GeneralSubtree({ base }))),
  });
  const certificate = await signAuthority({
    name: "CN=Roost on this machine",
    keys,
    now,
    lifeMs: authorityLifeMs,
    extensions: [new Extension(constraintsId, true, AsnConvert.serialize(constraints))],
  });
  return { certificatePem: certificate.toString("pem"), privateKeyPem: keys.privateKeyPem };
}

/** Whether an authority, as PEM, may sign for all these names and is valid for long enough that it is worth it. */
export function isGoodAuthority(certificatePem: string, { domains, addresses }: AuthorityScope, now: Date): boolean {
  const certificate = new X509Certificate(certificatePem);
  const extension = certificate.getExtension(constraintsId);
  if (extension === null || certificate.notAfter.getTime() - now.getTime() < leafLifeMs) return false;
  const permitted = AsnConvert.parse(extension.value, NameConstraints).permittedSubtrees ?? [];
  const has = (isRight: (base: GeneralName) => boolean) => [...permitted].some(({ base }) => isRight(base));
  return (
    domains.every((name) => has(({ dNSName }) => dNSName !== undefined && (name === dNSName || name.endsWith(`.${dNSName}`)))) &&
    addresses.every((address) => has(({ iPAddress }) => iPAddress?.split("/")[0] === address))
  );
}

/** A new key, and a certificate of the authority's for these names. */
export async function issueLeaf(
  authority: PemPair,
  { names, addresses }: { readonly names: readonly string[]; readonly addresses: readonly string[] },
  now: Date,
): Promise<PemPair> {
  const keys = await makeKeyPair();
  const certificate = await signLeaf({
    issuer: new X509Certificate(authority.certificatePem),
    signingKey: await importSigningKey(authority.privateKeyPem),
    publicKey: keys.publicKey,
    now,
    timeExpires: new Date(now.getTime() + leafLifeMs),
    usages: [ExtendedKeyUsage.serverAuth],
    names: [...names.map((value) => ({ type: "dns" as const, value })), ...addresses.map((value) => ({ type: "ip" as const, value }))],
  });
  return { certificatePem: certificate.toString("pem"), privateKeyPem: keys.privateKeyPem };
}
