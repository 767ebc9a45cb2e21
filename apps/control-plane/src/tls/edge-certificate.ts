import { X509Certificate } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { createSecureContext } from "node:tls";

import { hour, minute, ServiceLoop, writeFileDurably, type Logger } from "@roost/kit";

import { isGoodAuthority, issueLeaf, leafLifeMs, makeLocalAuthority, type AuthorityScope, type PemPair } from "./local-certificates.ts";

/** Names below it lead to this machine wherever `localhost` does. Not `*.localhost` itself: browsers take no wildcard right below the root */
export const localSandboxDomain = "sandbox.localhost";
const loopbackAddresses = ["127.0.0.1", "::1"];
/** Time between two looks whether the operator put another certificate in place in `ms` */
const lookIntervalMs = 1 * minute;
/** A leaf of our own is made anew when this much of its life is left, in `ms` */
const renewMs = leafLifeMs / 3;
/** And at most this often, where that fails, in `ms` */
const backoffMsMax = 1 * hour;

export interface EdgeCertificateOptions {
  readonly dir: string;
  /** Paths of one's own certificate (with those between it and its authority) and key; else a local authority makes one */
  readonly tlsCert?: string | undefined;
  readonly tlsKey?: string | undefined;
  readonly domain?: string | undefined;
  readonly publicUrl?: string | undefined;
}

/** Where a local authority is, for who is to trust it. */
export function localAuthorityPath(dir: string): string {
  return join(dir, "tls", "authority.pem");
}

/** The certificate of the API's and the sandboxes' TLS: the operator's own, read again when it changes, or one of a local authority, made anew before it ends. */
export class EdgeCertificate {
  readonly #options: EdgeCertificateOptions;
  readonly #log: Logger;
  readonly #now: () => Date;
  #pem: PemPair;

  private constructor(options: EdgeCertificateOptions, pem: PemPair, log: Logger, now: () => Date) {
    this.#options = options;
    this.#pem = pem;
    this.#log = log;
    this.#now = now;
  }

  /** Throws an error for the operator when there is no certificate that could be used. */
  static async open(options: EdgeCertificateOptions, log: Logger, now: () => Date = () => new Date()): Promise<EdgeCertificate> {
    return new EdgeCertificate(options, await load(options, now(), log), log, now);
  }

  get pem(): PemPair {
    return this.#pem;
  }

  /** Tells `onChange` of another certificate from now on. */
  async follow(signal: AbortSignal, onChange: (pem: PemPair) => void): Promise<void> {
    const loop = new ServiceLoop("TLS certificate", this.#log, signal, { backoffMsMax });
    await loop.sleep(lookIntervalMs);
    await loop.every(lookIntervalMs, async () => {
      if (await this.refresh()) onChange(this.#pem);
    });
  }

  /** Whether it is another one now. Throws when the new one cannot be used: the one before stays. */
  async refresh(): Promise<boolean> {
    const isOwn = this.#options.tlsCert !== undefined;
    const ends = endOf(this.#pem.certificatePem);
    if (!isOwn && ends.getTime() - this.#now().getTime() > renewMs) return false;
    const next = await load(this.#options, this.#now(), this.#log);
    if (next.certificatePem === this.#pem.certificatePem && next.privateKeyPem === this.#pem.privateKeyPem) return false;
    this.#pem = next;
    this.#log.info({ ends: endOf(next.certificatePem) }, "the TLS certificate is another one now");
    return true;
  }
}

async function load(options: EdgeCertificateOptions, now: Date, log: Logger): Promise<PemPair> {
  const { tlsCert, tlsKey } = options;
  if (tlsCert === undefined && tlsKey === undefined) return localLeaf(options, now, log);
  if (tlsCert === undefined || tlsKey === undefined)
    throw new Error("ROOST_TLS_CERT and ROOST_TLS_KEY go together: one of them is missing");
  const pem = { certificatePem: await readPem("ROOST_TLS_CERT", tlsCert), privateKeyPem: await readPem("ROOST_TLS_KEY", tlsKey) };
  try {
    createSecureContext({ cert: pem.certificatePem, key: pem.privateKeyPem });
    void new X509Certificate(pem.certificatePem);
  } catch (error) {
    throw new Error(`${tlsCert} and ${tlsKey} are not a certificate and its key, both as PEM: ${String(error)}`, { cause: error });
  }
  return pem;
}

async function readPem(setting: string, path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: unknown) => {
    throw new Error(`${setting}: ${path} cannot be read: ${String(error)}`, { cause: error });
  });
}

async function localLeaf(options: EdgeCertificateOptions, now: Date, log: Logger): Promise<PemPair> {
  const hosts = new Set(["localhost"]);
  const domains = new Set([localSandboxDomain]);
  if (options.publicUrl !== undefined) hosts.add(new URL(options.publicUrl).hostname.replace(/^\[(.*)\]$/, "$1"));
  if (options.domain !== undefined) domains.add(options.domain.replace(/:\d+$/, ""));
  const addresses = [...new Set([...loopbackAddresses, ...[...hosts].filter((host) => isIP(host) !== 0)])];
  const named = [...hosts].filter((host) => isIP(host) === 0);
  const authority = await localAuthority(options.dir, { domains: [...named, ...domains], addresses }, now, log);
  return issueLeaf(authority, { names: [...named, ...[...domains].flatMap((domain) => [domain, `*.${domain}`])], addresses }, now);
}

async function localAuthority(dir: string, scope: AuthorityScope, now: Date, log: Logger): Promise<PemPair> {
  const path = localAuthorityPath(dir);
  const keyPath = join(dir, "tls", "authority-key.pem");
  const absent = (error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  };
  const certificatePem = await readFile(path, "utf8").catch(absent);
  const privateKeyPem = await readFile(keyPath, "utf8").catch(absent);
  if (certificatePem !== undefined && privateKeyPem !== undefined && isGoodAuthority(certificatePem, scope, now))
    return { certificatePem, privateKeyPem };
  const made = await makeLocalAuthority(scope, now);
  await mkdir(join(dir, "tls"), { recursive: true, mode: 0o755 });
  await writeFileDurably(keyPath, made.privateKeyPem, { mode: 0o600 });
  await writeFileDurably(path, `${made.certificatePem}\n`, { mode: 0o644 });
  log.info(
    { path, wasThere: certificatePem !== undefined },
    "a local certificate authority was made; `roost tls trust` makes this machine trust it",
  );
  return made;
}

function endOf(certificatePem: string): Date {
  return new Date(new X509Certificate(certificatePem).validTo);
}
