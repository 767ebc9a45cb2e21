import "reflect-metadata"; // @peculiar/x509 needs it to be there first
import { createHash, webcrypto } from "node:crypto";

import {
  BasicConstraintsExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
  type JsonGeneralNames,
  type X509Certificate,
} from "@peculiar/x509";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const dayMs = 24 * 3600 * 1000;

export interface TestIdentity {
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly caPem: string;
}

/** When a certificate is valid, relative to now in `ms`. */
export interface TestLife {
  readonly fromMs?: number;
  readonly toMs?: number;
}

/** A certificate authority of a test's own: for either side of a mutual TLS, and for strangers. */
export class TestAuthority {
  readonly #keys: webcrypto.CryptoKeyPair;
  readonly #certificate: X509Certificate;

  private constructor(keys: webcrypto.CryptoKeyPair, certificate: X509Certificate) {
    this.#keys = keys;
    this.#certificate = certificate;
  }

  static async create(): Promise<TestAuthority> {
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
    const certificate = await X509CertificateGenerator.createSelfSigned({
      name: "CN=test authority",
      notBefore: new Date(Date.now() - dayMs),
      notAfter: new Date(Date.now() + dayMs),
      signingAlgorithm: algorithm,
      keys,
      extensions: [new BasicConstraintsExtension(true, 0, true)],
    });
    return new TestAuthority(keys, certificate);
  }

  get caPem(): string {
    return `${this.#certificate.toString("pem")}\n`;
  }

  /** First 128 bits of the certificate's SHA-256, as registration tokens have it. */
  get fingerprint(): string {
    return createHash("sha256").update(Buffer.from(this.#certificate.rawData)).digest("hex").slice(0, 32);
  }

  /** A key and a certificate with this one name, a URI. */
  async identity(uri: string, life: TestLife = {}): Promise<TestIdentity> {
    const { publicKey, keyPem } = await newKey();
    return { keyPem, certificatePem: await this.#sign(publicKey, [{ type: "url", value: uri }], life), caPem: this.caPem };
  }

  /** A key and a certificate for servers of these DNS names. */
  async serverIdentity(names: readonly string[], life: TestLife = {}): Promise<TestIdentity> {
    const { publicKey, keyPem } = await newKey();
    return { keyPem, certificatePem: await this.#sign(publicKey, dnsNames(names), life), caPem: this.caPem };
  }

  /** A certificate for the key of a request, PEM; rejects one that its key has not signed. */
  async answer(requestPem: string, uri: string, life: TestLife = {}): Promise<string> {
    const request = new Pkcs10CertificateRequest(requestPem);
    if (!(await request.verify())) throw new Error("the request is not signed by its own key");
    return this.#sign(await request.publicKey.export(), [{ type: "url", value: uri }], life);
  }

  async #sign(publicKey: webcrypto.CryptoKey, names: JsonGeneralNames, { fromMs = -60_000, toMs = dayMs / 2 }: TestLife): Promise<string> {
    const certificate = await X509CertificateGenerator.create({
      issuer: this.#certificate.subject,
      subject: "",
      notBefore: new Date(Date.now() + fromMs),
      notAfter: new Date(Date.now() + toMs),
      signingAlgorithm: algorithm,
      publicKey,
      signingKey: this.#keys.privateKey,
      extensions: [new SubjectAlternativeNameExtension(names)],
    });
    return `${certificate.toString("pem")}\n`;
  }
}

const dnsNames = (names: readonly string[]): JsonGeneralNames => names.map((value) => ({ type: "dns", value }));

async function newKey(): Promise<{ readonly publicKey: webcrypto.CryptoKey; readonly keyPem: string }> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const key = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  return {
    publicKey: keys.publicKey,
    keyPem: `-----BEGIN PRIVATE KEY-----\n${key.replaceAll(/.{64}/g, "$&\n")}\n-----END PRIVATE KEY-----\n`,
  };
}
