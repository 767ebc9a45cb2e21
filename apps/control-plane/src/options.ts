import { defineOptions, type OptionValues } from "@roost/kit";
import { z } from "zod";

import { cpuOvercommitDefault } from "./placement/placements.ts";
import { strayGraceMsDefault } from "./sandboxes/reconciler.ts";

import { parseRanges } from "./channels/address-ranges.ts";

const originsSchema = z
  .string()
  .transform((text) => text.split(",").map((origin) => origin.trim()))
  .pipe(
    z.array(z.url().refine((origin) => new URL(origin).origin === origin, "an origin is written like https://console.example.org")).max(64),
  );

/** Where plain HTTP is as good: what is said does not leave the machine */
const loopbackNames = new Set(["127.0.0.1", "[::1]", "localhost"]);
const secureUrlSchema = z
  .url({ protocol: /^https?$/, error: "written as https://roost.example.org" })
  .refine((url) => url.startsWith("https:") || loopbackNames.has(new URL(url).hostname), "must be https, except on this machine")
  .refine((url) => new URL(url).search === "" && new URL(url).hash === "", "must have neither `?` nor `#`");

const rangesSchema = z.string().transform((text, context) => {
  try {
    return parseRanges(text);
  } catch {
    context.addIssue({ code: "custom", message: "address ranges are written as 10.1.0.0/16, with commas between them" });
    return z.NEVER;
  }
});

/** Settings of the control plane. */
export const controlPlaneOptions = defineOptions("ROOST_", {
  dir: { schema: z.string().startsWith("/").default("/var/lib/roost"), desc: "State folder; the embedded database is in its `db`" },
  cacheDir: {
    schema: z.string().startsWith("/").default("/var/cache/roost"),
    desc: "An empty embedded database is kept here, to copy new ones from",
  },
  address: { schema: z.string().default("127.0.0.1"), desc: "Address the API listens on; put TLS in front of anything but loopback" },
  port: { schema: z.coerce.number().int().min(0).max(65_535).default(7070), desc: "Port the API listens on; 0 takes a free one" },
  tls: {
    schema: z.union([z.boolean(), z.stringbool()]).default(false),
    desc: "Also serve TLS with HTTP/2: with a certificate of a local authority that `roost tls trust` makes this machine trust, or ROOST_TLS_CERT",
  },
  tlsCert: {
    schema: z.string().startsWith("/").optional(),
    desc: "Serve TLS with this certificate, as PEM with those between it and its authority; read again when it changes",
  },
  tlsKey: { schema: z.string().startsWith("/").optional(), desc: "Key of that certificate, as PEM" },
  tlsAddress: { schema: z.string().default("127.0.0.1"), desc: "Address that TLS is served on" },
  tlsPort: { schema: z.coerce.number().int().min(0).max(65_535).default(7443), desc: "Port that TLS is served on; 0 takes a free one" },
  databaseUrl: {
    schema: z.string().startsWith("postgres").optional(),
    desc: "PostgreSQL 15 or newer, as postgres://user:password@host/name; default: the embedded database",
    secret: true,
  },
  secretKey: {
    schema: z
      .string()
      .regex(/^[0-9a-f]{64}$/, "it has 64 hex digits, for example from `openssl rand -hex 32`")
      .optional(),
    desc: "Seals what the database keeps but must not know; required with ROOST_DATABASE_URL, the same for all control planes; default: made in the state folder",
    secret: true,
  },
  domain: {
    schema: z
      .string()
      .regex(
        /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?::\d{1,5})?$/,
        "written as sandboxes.example.org",
      )
      .max(253)
      .optional(),
    desc: "Domain whose names `<port>-<sandbox>.<domain>` lead here: E2B clients are told it; default: none",
  },
  sandboxConnections: {
    schema: z.coerce.number().int().min(1).max(2_000).default(1_536),
    desc: "Requests and connections to ports that one sandbox may have open at once through one control plane; above it 429",
  },
  allowedOrigins: {
    schema: originsSchema.default([]),
    desc: "Web origins besides its own whose pages may open WebSockets and act for who is signed in, comma-separated",
  },
  publicUrl: {
    schema: z
      .url({ protocol: /^https?$/, error: "written as https://roost.example.org" })
      .refine((url) => new URL(url).origin === url.replace(/\/$/, ""), "must have no path")
      .optional(),
    desc: "Where people reach the API: links in mails and the way back from GitHub begin with it, and with https cookies are for TLS only; default: http://localhost and the port",
  },
  trustedProxies: {
    schema: rangesSchema.default([]),
    desc: "Address ranges of own proxies in front of the API, comma-separated: what they say in X-Forwarded-For is believed; default: none",
  },
  signup: {
    schema: z.enum(["open", "invite", "closed"]).default("invite"),
    desc: "Who may sign up: `open` anybody, `invite` who was invited to a team, `closed` nobody; whoever has the set-up code may once, and becomes admin",
  },
  smtpUrl: {
    schema: z.url({ protocol: /^smtps?$/, error: "written as smtps://user:password@mail.example.org" }).optional(),
    desc: "Mail server, as smtp://user:password@host:587 or smtps://…; default: mails become files in `mail` of the state folder",
    secret: true,
  },
  mailFrom: {
    schema: z
      .string()
      .min(3)
      .max(320)
      .regex(/^[^\r\n]+$/)
      .optional(),
    desc: "Sender of mails, as `Roost <noreply@example.org>`; default: noreply at the public URL's host",
  },
  githubClientId: { schema: z.string().min(1).optional(), desc: "Client id of an OAuth app: people may sign in with GitHub" },
  githubClientSecret: { schema: z.string().min(1).optional(), desc: "Client secret of that app", secret: true },
  githubUrl: { schema: secureUrlSchema.default("https://github.com"), desc: "GitHub, or a GitHub Enterprise Server" },
  hostsAddress: { schema: z.string().default("0.0.0.0"), desc: "Address the host port listens on" },
  hostsPort: {
    schema: z.coerce.number().int().min(0).max(65_535).optional(),
    desc: "Host port: where host agents on other machines register and report, by mutual TLS; usually 7071; default: none, so no further hosts",
  },
  hostHeartbeatSec: {
    schema: z.coerce.number().min(0.1).max(300).default(10),
    desc: "Time between two heartbeats of a host, in s",
  },
  hostLeaseSec: {
    schema: z.coerce.number().min(0.3).max(3600).default(30),
    desc: "How long after a heartbeat a host counts as reachable, in s: some heartbeats may get lost",
  },
  buildFilesMib: {
    schema: z.coerce.number().int().min(1).default(20_480),
    desc: "Most disk that files uploaded for builds may use, in MiB; those of one step may have half of it",
  },
  buildsAtOnce: {
    schema: z.coerce.number().int().min(1).max(64).default(2),
    desc: "Builds of templates that are worked at at the same time; others wait for their turn",
  },
  buildTimeoutSec: {
    schema: z.coerce
      .number()
      .int()
      .min(1)
      .max(7 * 24 * 3600)
      .default(3600),
    desc: "Longest that a build may take, in s; above it fails",
  },
  metricsAddress: { schema: z.string().default("127.0.0.1"), desc: "Address that ROOST_METRICS_PORT is on" },
  metricsPort: {
    schema: z.coerce.number().int().min(0).max(65_535).optional(),
    desc: "Port of a listener that serves Prometheus metrics, and nothing else, without a key; default: none, `/metrics` of the API wants a platform admin's",
  },
  auditRetentionSec: {
    schema: z.coerce.number().int().min(0).default(0),
    desc: "How long entries of the audit log stay, in s; 0: for ever. What is removed leaves an entry, with the last hash",
  },
  auditCommands: {
    schema: z.stringbool().default(false),
    desc: "Whether the audit log has who ran commands and wrote files in sandboxes, through the native API or the data plane (E2B's SDK), without what they were",
  },
  webhookAllowedRanges: {
    schema: rangesSchema.default([]),
    desc: "Address ranges that are not public and that webhooks may be sent to nevertheless, as 10.1.0.0/16,fd00::/8",
  },
  cpuOvercommit: {
    schema: z.coerce.number().min(0.1).max(1_000).default(cpuOvercommitDefault),
    desc: "How many virtual CPUs of sandboxes that run one core of a host may have; hosts set ROOST_MEMORY_OVERCOMMIT themselves",
  },
  strayGraceSec: {
    schema: z.coerce
      .number()
      .int()
      .min(0)
      .max(365 * 24 * 3600)
      .default(strayGraceMsDefault / 1000),
    desc: "How long a sandbox on a host that no record explains is left alone before it is ended, in s; raise it before restoring an old copy of the database",
  },
  stoppedRetentionSec: {
    schema: z.coerce
      .number()
      .int()
      .min(0)
      .default(7 * 24 * 3600),
    desc: "How long a sandbox that stopped stays in the records, in s",
  },
  drainTimeoutSec: {
    schema: z.coerce.number().int().min(0).max(3600).default(20),
    desc: "How long a shutdown waits for requests in flight, in s",
  },
});

export type ControlPlaneOptions = OptionValues<typeof controlPlaneOptions.table>;
