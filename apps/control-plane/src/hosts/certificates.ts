import "reflect-metadata"; // its decorators need it before it is loaded

import { createHash, webcrypto } from "node:crypto";

import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  type JsonGeneralNames,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { PlatformError } from "@roost/contract";
import { hour } from "@roost/kit";

import { certificateBackdateMs } from "./host-peer.ts";

/**
 * The certificates of hosts and control planes, made with `@peculiar/x509` on Node's WebCrypto: P-256 keys, one authority that signs nothing but
 * leaves, leaves with exactly one name. What a name means is in `packages/contract/src/host-registration.ts`.
 */
cryptoProvider.set(webcrypto);

const curve = { name: "ECDSA", namedCurve: "P-256" } as const;
const signing = { ...curve, hash: "SHA-256" } as const;
const day = 24 * hour;

/** Life of the authority's certificate in `ms`: replacing it means registering all hosts anew */
const authorityLifeMs = 3_653 * day;
/** Life of a leaf in `ms`: a host that is away for longer needs a new registration token */
export const certificateLifeMs = 7 * day;

export interface Certificate {
  readonly pem: string;
  /** SHA-256, hex */
  readonly fingerprint: string;
  readonly timeIssued: Date;
  readonly timeExpires: Date;
}

export interface KeyPair {
  readonly publicKey: webcrypto.CryptoKey;
  readonly privateKey: webcrypto.CryptoKey;
  /** PKCS 8 */
  readonly privateKeyPem: string;
}

/** A key whose public half came in a request. */
export interface RequestedKey {
  readonly publicKey: webcrypto.CryptoKey;
  /** SHA-256 over its SubjectPublicKeyInfo */
  readonly hash: Buffer;
}

export async function makeKeyPair(): Promise<KeyPair> {
  const pair = await webcrypto.subtle.generateKey(curve, true, ["sign", "verify"]);
  const exported = await webcrypto.subtle.exportKey("pkcs8", pair.privateKey);
  return { ...pair, privateKeyPem: PemConverter.encode(exported, "PRIVATE KEY") };
}

/** SHA-256 over a certificate's DER, hex. */
export function fingerprintOf(der: ArrayBuffer | Uint8Array): string {
  return createHash("sha256")
    .update(der instanceof Uint8Array ? der : new Uint8Array(der))
    .digest("hex");
}

/**
 * The key in a PKCS #10 request, whose sender has proven to have the other half. Nothing else in it counts: not its subject, not the names and
 * extensions that it asks for.
 */
export async function keyOfRequest(pem: string): Promise<RequestedKey> {
  try {
    const request = new Pkcs10CertificateRequest(pem);
    if (!(await request.verify())) throw new Error("it is not signed with its own key");
    const publicKey = (await request.publicKey.export(curve, ["verify"])) as unknown as webcrypto.CryptoKey;
    return { publicKey, hash: createHash("sha256").update(new Uint8Array(request.publicKey.rawData)).digest() };
  } catch (error) {
    throw new PlatformError(
      "request_invalid",
      "csr_pem is not a certificate request (PKCS #10, PEM) for a P-256 key, signed with that key",
      {
        cause: error,
      },
    );
  }
}

/** Signs certificates. */
export class CertificateAuthority {
  /** For peers */
  readonly pem: string;
  /** SHA-256 of its certificate, hex */
  readonly fingerprint: string;
  readonly #certificate: X509Certificate;
  readonly #key: webcrypto.CryptoKey;

  private constructor(certificate: X509Certificate, key: webcrypto.CryptoKey) {
    this.pem = certificate.toString("pem");
    this.fingerprint = fingerprintOf(certificate.rawData);
    this.#certificate = certificate;
    this.#key = key;
  }

  /** A new one, with the two texts from which it can be opened again. */
  static async make(now: Date): Promise<{ readonly certificatePem: string; readonly privateKeyPem: string }> {
    const keys = await makeKeyPair();
    const certificate = await signAuthority({ name: "CN=Roost hosts", keys, now, lifeMs: authorityLifeMs });
    return { certificatePem: certificate.toString("pem"), privateKeyPem: keys.privateKeyPem };
  }

  static async open(certificatePem: string, privateKeyPem: string): Promise<CertificateAuthority> {
    return new CertificateAuthority(new X509Certificate(certificatePem), await importSigningKey(privateKeyPem));
  }

  /** A certificate for one name and key, for both ends of a connection. */
  async issue(name: string, publicKey: webcrypto.CryptoKey, now: Date, lifeMs = certificateLifeMs): Promise<Certificate> {
    const timeExpires = new Date(Math.trunc((now.getTime() + lifeMs) / 1000) * 1000); // certificates know no smaller unit
    const certificate = await signLeaf({
      issuer: this.#certificate,
      signingKey: this.#key,
      publicKey,
      now,
      timeExpires,
      usages: [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth],
      names: [{ type: "url", value: name }],
    });
    return { pem: certificate.toString("pem"), fingerprint: fingerprintOf(certificate.rawData), timeIssued: now, timeExpires };
  }
}

/** A certificate that signs others, and itself. */
export async function signAuthority({
  name,
  keys,
  now,
  lifeMs,
  extensions = [],
}: {
  readonly name: string;
  readonly keys: KeyPair;
  readonly now: Date;
  readonly lifeMs: number;
  readonly extensions?: readonly Extension[];
}): Promise<X509Certificate> {
  return X509CertificateGenerator.create({
    subject: name,
    issuer: name,
    notBefore: new Date(now.getTime() - certificateBackdateMs),
    notAfter: new Date(now.getTime() + lifeMs),
    publicKey: keys.publicKey,
    signingKey: keys.privateKey,
    signingAlgorithm: signing,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
      ...extensions,
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
}

/** A certificate for these names, which signs nothing. */
export async function signLeaf({
  issuer,
  signingKey,
  publicKey,
  now,
  timeExpires,
  usages,
  names,
}: {
  readonly issuer: X509Certificate;
  readonly signingKey: webcrypto.CryptoKey;
  readonly publicKey: webcrypto.CryptoKey;
  readonly now: Date;
  readonly timeExpires: Date;
  readonly usages: readonly ExtendedKeyUsage[];
  readonly names: JsonGeneralNames;
}): Promise<X509Certificate> {
  return X509CertificateGenerator.create({
    subject: "CN=Roost",
    issuer: issuer.subjectName,
    notBefore: new Date(now.getTime() - certificateBackdateMs),
    notAfter: timeExpires,
    publicKey,
    signingKey,
    signingAlgorithm: signing,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([...usages]),
      new SubjectAlternativeNameExtension(names),
      await AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      await SubjectKeyIdentifierExtension.create(publicKey),
    ],
  });
}

export async function importSigningKey(pem: string): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey("pkcs8", PemConverter.decodeFirst(pem), curve, false, ["sign"]);
}
