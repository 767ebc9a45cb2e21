import "reflect-metadata"; // the decorators of the certificates' library need it before it is loaded

import { randomBytes, webcrypto } from "node:crypto";
import { createSecureContext, type SecureContext } from "node:tls";

import { AsnConvert } from "@peculiar/asn1-schema";
import { GeneralName, GeneralSubtree, GeneralSubtrees, NameConstraints } from "@peculiar/asn1-x509";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { hour } from "@roost/kit";
import { z } from "zod";

cryptoProvider.set(webcrypto);

const curve = { name: "ECDSA", namedCurve: "P-256" } as const;
const signing = { ...curve, hash: "SHA-256" } as const;
const day = 24 * hour;
/** Life of an authority in `ms`: as long as a sandbox can be, and programs in it keep what they trusted when they began */
const authorityLifeMs = 3_653 * day;
/** Life of a leaf in `ms`, of which it is used for half; it is made in no time */
const leafLifeMs = 7 * day;
/** Guests' clocks may be late, in `ms`: a certificate from their future is none */
const backdateMs = day;
/** Certificates kept by name. A pattern has as many names as the guest likes to ask for; those that are used least go */
const leavesMax = 32;
const constraintsId = "2.5.29.30";

const pemSchema = z.string().min(1).max(16_384);

/** What a sandbox's guest trusts for the domains of its rules, and for nothing else; with the key, which is the host's alone. */
export const authoritySchema = z.object({
  /** Sorted */
  domains: z.array(z.string()),
  certificatePem: pemSchema,
  privateKeyPem: pemSchema,
});
export type Authority = z.infer<typeof authoritySchema>;

/** The authority for these domains: the present one where it is for the same, else a new one. Null: none is needed. */
export async function authorityFor(domains: readonly string[], present: Authority | null, now = new Date()): Promise<Authority | null> {
  if (domains.length === 0) return null;
  const sorted = domains.toSorted();
  return present !== null && present.domains.join() === sorted.join() ? present : makeAuthority(sorted, now);
}

async function makeAuthority(domains: readonly string[], now: Date): Promise<Authority> {
  const keys = await webcrypto.subtle.generateKey(curve, true, ["sign", "verify"]);
  // A name of a constraint stands for those below it, too: a pattern's own name, which has no rule, is one more than needed
  const permitted = domains.map((domain) => new GeneralSubtree({ base: new GeneralName({ dNSName: domain.replace(/^\*\./, "") }) }));
  const constraints = new NameConstraints({ permittedSubtrees: new GeneralSubtrees(permitted) });
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: "CN=Roost egress of this sandbox",
    serialNumber: serialNumber(),
    keys,
    signingAlgorithm: signing,
    notBefore: new Date(now.getTime() - backdateMs),
    notAfter: new Date(now.getTime() + authorityLifeMs),
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new Extension(constraintsId, true, AsnConvert.serialize(constraints)),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return {
    domains: [...domains],
    certificatePem: `${certificate.toString("pem")}\n`,
    privateKeyPem: await exportKey(keys.privateKey),
  };
}

interface Leaf {
  readonly context: Promise<SecureContext>;
  readonly timeRenewMs: number;
}

/** Certificates that one authority signed for the names that its guest asked for, ready to be shown. */
export class Leaves {
  readonly #issuer: X509Certificate;
  readonly #authority: Authority;
  /** The one used last is the last */
  readonly #byName = new Map<string, Leaf>();
  /** One for all: what it protects is the guest's own connection to its host */
  #keys: Promise<webcrypto.CryptoKeyPair> | undefined;

  constructor(authority: Authority) {
    this.#authority = authority;
    this.#issuer = new X509Certificate(authority.certificatePem);
  }

  async contextFor(name: string): Promise<SecureContext> {
    const present = this.#byName.get(name);
    this.#byName.delete(name);
    const now = Date.now();
    const leaf =
      present !== undefined && present.timeRenewMs > now ? present : { context: this.#make(name), timeRenewMs: now + leafLifeMs / 2 };
    this.#byName.set(name, leaf);
    leaf.context.catch(() => this.#byName.delete(name)); // the next one tries again; this one is told
    for (const oldest of this.#byName.keys()) {
      if (this.#byName.size <= leavesMax) break;
      this.#byName.delete(oldest);
    }
    return leaf.context;
  }

  async #make(name: string): Promise<SecureContext> {
    this.#keys ??= webcrypto.subtle.generateKey(curve, true, ["sign", "verify"]);
    const keys = await this.#keys;
    const now = Date.now();
    const certificate = await X509CertificateGenerator.create({
      issuer: this.#issuer.subject,
      subject: "", // a common name has 64 characters at most; what counts is the alternative name, which is critical then
      serialNumber: serialNumber(),
      notBefore: new Date(now - backdateMs),
      notAfter: new Date(now + leafLifeMs),
      signingAlgorithm: signing,
      publicKey: keys.publicKey,
      signingKey: await webcrypto.subtle.importKey("pkcs8", PemConverter.decodeFirst(this.#authority.privateKeyPem), curve, false, [
        "sign",
      ]),
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
        new SubjectAlternativeNameExtension([{ type: "dns", value: name }], true),
        await AuthorityKeyIdentifierExtension.create(this.#issuer),
      ],
    });
    return createSecureContext({ cert: certificate.toString("pem"), key: await exportKey(keys.privateKey), minVersion: "TLSv1.2" });
  }
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return `${PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY")}\n`;
}

/** Positive, and never the same twice for one issuer. */
function serialNumber(): string {
  return `01${randomBytes(15).toString("hex")}`;
}
