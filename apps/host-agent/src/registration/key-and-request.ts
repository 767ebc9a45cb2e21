import "reflect-metadata"; // @peculiar/x509 needs it to be there first
import { Pkcs10CertificateRequestGenerator } from "@peculiar/x509";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** A key and the request for its certificate. Both PEM. */
export interface KeyAndRequest {
  readonly keyPem: string;
  readonly requestPem: string;
}

/** Makes a key of this host's own, and asks for a certificate for it: what that says beside the key is the control plane's to decide. */
export async function makeKeyAndRequest(): Promise<KeyAndRequest> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const request = await Pkcs10CertificateRequestGenerator.create({ name: "CN=roost host", keys, signingAlgorithm: algorithm });
  const key = Buffer.from(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  return { keyPem: pem("PRIVATE KEY", key), requestPem: `${request.toString("pem")}\n` };
}

function pem(label: string, der: Buffer): string {
  const lines = der.toString("base64").match(/.{1,64}/g) ?? [];
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
}
