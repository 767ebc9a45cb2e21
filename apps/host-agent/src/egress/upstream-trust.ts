import { X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";

import { OptionError } from "@roost/kit";

/** Where systems keep the authorities that they trust: Debian and Alpine, Fedora, SUSE */
const systemBundles = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/** Whom the host believes that it is a server to which it sends credentials: what its system trusts (where it has no such list, what Node brings), and what the operator adds. */
export class UpstreamTrust {
  readonly #extraPem: readonly string[];
  #context: SecureContext | undefined;

  /** `extraPem`: certificates, PEM */
  constructor(extraPem: readonly string[] = []) {
    this.#extraPem = extraPem;
  }

  /** Read when it is first needed, which takes a moment, and kept. */
  get context(): SecureContext {
    this.#context ??= createSecureContext({ ca: [...systemAuthorities(), ...this.#extraPem], minVersion: "TLSv1.2" });
    return this.#context;
  }
}

function systemAuthorities(): readonly string[] {
  const bundle = systemBundles.find((path) => existsSync(path));
  return bundle === undefined ? rootCertificates : [readFileSync(bundle, "utf8")];
}

/** The operator's file; rejects with an `OptionError` when there are no certificates in it. */
export async function readEgressCa(path: string): Promise<string> {
  try {
    const text = await readFile(path, "utf8");
    const { ca } = new X509Certificate(text); // of several the first
    if (!ca) throw new Error("it is of no authority");
    return text;
  } catch (error) {
    throw new OptionError(`ROOST_EGRESS_CA: there are no certificates of authorities in PEM form in ${path}`, { cause: error });
  }
}
