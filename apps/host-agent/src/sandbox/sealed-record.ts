import { readFile } from "node:fs/promises";

import { randomBytes } from "node:crypto";
import { mapHeaderValues } from "@roost/contract";
import { SecretBox, writeFileDurably } from "@roost/kit";
import { z } from "zod";

import type { SandboxRecord } from "./sandbox-record.ts";

/**
 * What of a record its file must not show, because it is a credential of the user's, or vouches for the host: the password of an egress proxy, values of headers, the key of the sandbox's
 * authority. It is sealed with a key of the host's that lies beside the sandboxes, for root alone: the host agent enforces policies without asking anybody, and a copy of a
 * sandbox's folder, such as a backup, tells nobody anything.
 */
const secretsSchema = z.object({
  password: z.string().optional(),
  /** Values by domain and header */
  rules: z.record(z.string(), z.record(z.string(), z.string())).default({}),
  authorityKeyPem: z.string().optional(),
});
type Secrets = z.infer<typeof secretsSchema>;

const keyBytes = 32;
const keyPattern = /^[0-9a-f]{64}$/;
const purpose = "sandbox records of a host";

/** Opens the host's key, which is made when it is first needed. A broken one is not replaced: what it sealed would be lost. */
export async function openRecordBox(path: string): Promise<SecretBox> {
  const present = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (present !== undefined) {
    if (!keyPattern.test(present.trim()))
      throw new Error(`${path} does not have the key of this host's records in it; put back the one that was there`);
    return new SecretBox(present.trim(), purpose);
  }
  const made = randomBytes(keyBytes).toString("hex");
  await writeFileDurably(path, `${made}\n`, { mode: 0o600 });
  return new SecretBox(made, purpose);
}

/** A record as its file has it. */
export function toFile(record: SandboxRecord, box: SecretBox): object {
  const { network, sandboxId } = record.spec;
  const { password, ...proxy } = network.proxy ?? {};
  const secrets: Secrets = {
    ...(password === undefined ? {} : { password }),
    rules: Object.fromEntries(Object.entries(network.rules).map(([domain, { headers }]) => [domain, { ...headers }])),
    ...(network.authority === null ? {} : { authorityKeyPem: network.authority.privateKeyPem }),
  };
  if (password === undefined && network.authority === null && Object.keys(secrets.rules).length === 0) return record;
  const shown = {
    ...network,
    proxy: network.proxy === null ? null : proxy,
    rules: mapHeaderValues(network.rules, () => ""),
    authority: network.authority === null ? null : { ...network.authority, privateKeyPem: "" },
  };
  return { ...record, spec: { ...record.spec, network: shown }, sealed: box.seal(JSON.stringify(secrets), sandboxId).toString("base64") };
}

/** Only as much of a file as is needed to open it. */
const fileSchema = z.looseObject({
  sealed: z.base64().optional(),
  spec: z.looseObject({ sandboxId: z.string(), network: z.looseObject({}) }),
});

/** What a file says, to be parsed as a record. One from before anything was sealed says it in the clear, until it is written again. */
export function fromFile(json: unknown, box: SecretBox): unknown {
  const { sealed, ...record } = fileSchema.parse(json);
  if (sealed === undefined) return record;
  const { spec } = record;
  const secrets = secretsSchema.parse(JSON.parse(box.open(Buffer.from(sealed, "base64"), spec.sandboxId)));
  const { proxy, authority } = spec.network as { readonly proxy?: object | null; readonly authority?: object | null };
  const network = {
    ...spec.network,
    proxy:
      proxy === undefined || proxy === null
        ? null
        : { ...proxy, ...(secrets.password === undefined ? {} : { password: secrets.password }) },
    rules: Object.fromEntries(Object.entries(secrets.rules).map(([domain, headers]) => [domain, { headers }])),
    authority: authority === undefined || authority === null ? null : { ...authority, privateKeyPem: secrets.authorityKeyPem },
  };
  return { ...record, spec: { ...spec, network } };
}
