import { z } from "zod";

import { hostIdSchema } from "./ids.ts";
import { nameLengthMax } from "./limits.ts";

/**
 * How a host agent joins a control plane and stays joined: the control plane's **host port**.
 *
 *     POST /hosts/register      no client certificate, a one-time token  → the host's first certificate
 *     POST /hosts/certificate   mutual TLS                               → the next certificate, before the one in use expires
 *     POST /hosts/heartbeat     mutual TLS                               → what the control plane wants of the host; renews its lease
 *
 * TLS 1.3 only. The host's key never leaves the host: it sends a certificate request (PKCS #10, P-256), and everything in
 * that but the key is ignored. Certificates of both sides come from one authority and carry exactly one name, a URI; each side checks
 * that it talks to the very peer it expects, not merely to somebody whom the authority knows. The host port sends its authority's
 * certificate along with its own, so that a host without one can compare it with the token before it sends that.
 *
 * Failures are answered as the API's are: an HTTP status and `errorBodySchema`. After these the host ends what it was doing here and says so:
 * `host_deleted` (it is no part of the installation any more), `host_certificate_refused` (its certificate was replaced, or is another host's).
 */

/** The name in the control plane's certificate. */
export const controlPlaneName = "roost://control-plane";

/** The name in a host's certificate. */
export function hostName(hostId: string): string {
  return `roost://host/${hostId}`;
}

/** The id in a host's name; undefined when it is no host's. */
export function hostIdOf(name: string): string | undefined {
  const id = name.startsWith(hostName("")) ? name.slice(hostName("").length) : undefined;
  return id !== undefined && hostIdSchema.safeParse(id).success ? id : undefined;
}

/** The one name in a certificate, from Node's `subjectaltname`; undefined when there is none, several, or one of another kind. */
export function certificateName(subjectAltName: string | undefined): string | undefined {
  return /^URI:(roost:\/\/[a-z0-9/-]{1,100})$/.exec(subjectAltName ?? "")?.[1];
}

export const hostPortPaths = {
  register: "/hosts/register",
  certificate: "/hosts/certificate",
  heartbeat: "/hosts/heartbeat",
} as const;

/** Longest body that the host port reads in `bytes`: a request with a certificate request and a description has a few KiB */
export const hostPortBodyBytesMax = 64 * 1024;

/** Registration tokens: a secret of 256 bits, and the first 128 bits of SHA-256 over the authority's certificate (DER). */
export const registrationTokenPattern = /^([0-9a-f]{64})\.([0-9a-f]{32})$/;

export interface RegistrationToken {
  readonly secret: string;
  /** Of the authority's certificate, 32 hex digits */
  readonly fingerprint: string;
}

/** Undefined when the text is no registration token. */
export function parseRegistrationToken(text: string): RegistrationToken | undefined {
  const [, secret, fingerprint] = registrationTokenPattern.exec(text.trim()) ?? [];
  return secret === undefined || fingerprint === undefined ? undefined : { secret, fingerprint };
}

const namePattern = /^[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$/;

/** Host and port of `host:port` or `[address]:port`; undefined when it is none. */
export function parseHostAddress(text: string): { readonly host: string; readonly port: number } | undefined {
  const [, six, other, digits] = /^(?:\[([0-9a-fA-F:.]{2,45})\]|([^[\]:\s/@]{1,253})):(\d{1,5})$/.exec(text) ?? [];
  const host = six ?? other;
  const port = Number(digits);
  if (host === undefined || port < 1 || port > 65_535 || (six === undefined && !namePattern.test(host))) return undefined;
  return { host, port };
}

/** Where the control plane reaches a host agent. */
export const hostAddressSchema = z
  .string()
  .max(262)
  .refine((text) => parseHostAddress(text) !== undefined, "an address is written host:port, for example 10.0.0.7:7072 or [fd00::7]:7072")
  .describe("`host:port` where the control plane reaches the host agent");

/** PEM of a PKCS #10 request */
export const certificateRequestSchema = z.string().max(8 * 1024);

const text = (lengthMax: number) => z.string().max(lengthMax);
const count = z.int().min(0);

/** What a host is. */
export const hostDescriptionSchema = z.object({
  agent_version: text(64),
  vmm: text(64),
  vmm_version: text(128),
  accelerator: text(64),
  accelerator_reason: text(1024),
  kernel_version: text(256),
  arch: text(32),
  cpu_count: z.int().min(1).max(65_536),
  /** Memory that sandboxes may reserve, in `MiB` */
  memory_mb: count,
  /** Disk of the state folder, in `MiB` */
  disk_mb: count,
  sandbox_count_max: count,
});
export type HostDescription = z.output<typeof hostDescriptionSchema>;

/** How much of that is in use. */
export const hostLoadSchema = z.object({
  /** Memory that sandboxes may still reserve, in `MiB` */
  memory_free_mb: count,
  disk_free_mb: count,
  /** Runnable processes, averaged over a minute */
  cpu_load: z.number().min(0).max(1_000_000),
  sandbox_count: count,
});
export type HostLoad = z.output<typeof hostLoadSchema>;

/** How a host is, by its own judgement. */
export const hostHealthSchema = z.object({
  is_healthy: z.boolean(),
  /** One line each, for operators */
  problems: z.array(text(512)).max(16),
});
export type HostHealth = z.output<typeof hostHealthSchema>;

/** `POST /hosts/register` */
export const registerHostBodySchema = z.strictObject({
  token: text(128),
  csr_pem: certificateRequestSchema,
  address: hostAddressSchema,
  description: hostDescriptionSchema,
});
export type RegisterHostBody = z.output<typeof registerHostBodySchema>;

/** `POST /hosts/certificate` */
export const renewCertificateBodySchema = z.strictObject({ csr_pem: certificateRequestSchema });
export type RenewCertificateBody = z.output<typeof renewCertificateBodySchema>;

/** What both answer. */
export const hostCertificateSchema = z.object({
  host_id: hostIdSchema,
  certificate_pem: z.string(),
  /** Of the authority, by which the host knows the control plane */
  ca_pem: z.string(),
});
export type HostCertificate = z.output<typeof hostCertificateSchema>;

/** `POST /hosts/heartbeat` */
export const heartbeatBodySchema = z.strictObject({
  /** By the host's clock */
  time: z.iso.datetime(),
  /** Where it is reached now: it may have changed */
  address: hostAddressSchema,
  description: hostDescriptionSchema,
  load: hostLoadSchema,
  health: hostHealthSchema,
});
export type HeartbeatBody = z.output<typeof heartbeatBodySchema>;

/** What the control plane wants of a host: nothing special, no new sandboxes, or its sandboxes gone too. */
export const wantedHostStates = ["ready", "cordoned", "draining"] as const;
export type WantedHostState = (typeof wantedHostStates)[number];

export const heartbeatAnswerSchema = z.object({
  wanted: z.enum(wantedHostStates),
  /** Until when the host counts as reachable unless it is heard of again, in `s` from now */
  lease_sec: z.number().positive(),
  /** Time between two heartbeats in `s` */
  heartbeat_sec: z.number().positive(),
  /** By the control plane's clock */
  time: z.iso.datetime(),
});
export type HeartbeatAnswer = z.output<typeof heartbeatAnswerSchema>;

/** Part of a certificate's life after which the host asks for the next one. */
export const certificateRenewAfter = 2 / 3;

/** `Upgrade` of a guest tunnel on a host agent's listener: `GET /tunnels/<sandbox>/<port>`; 101, then bytes. A refusal has the error's code in `errorCodeHeader` and an `errorBodySchema`. */
export const tunnelProtocol = "roost-tunnel";

export function tunnelPath(sandboxId: string, port: number): string {
  return `/tunnels/${sandboxId}/${port}`;
}

/** Host tags: words by which operators and placement choose. */
export const hostTagsMax = 32;
export const hostTagSchema = z
  .string()
  .max(nameLengthMax)
  .regex(/^[a-z0-9](?:[a-z0-9._=-]*[a-z0-9])?$/, "a tag is lower-case letters and digits, with . _ = - between them");
