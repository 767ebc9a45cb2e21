import { defineOptions, type OptionValues } from "@roost/kit";
import { z } from "zod";

const originsSchema = z
  .string()
  .transform((text) => text.split(",").map((origin) => origin.trim()))
  .pipe(
    z.array(z.url().refine((origin) => new URL(origin).origin === origin, "an origin is written like https://console.example.org")).max(64),
  );

/** Settings of the control plane. */
export const controlPlaneOptions = defineOptions("ROOST_", {
  dir: { schema: z.string().startsWith("/").default("/var/lib/roost"), desc: "State folder; the embedded database is in its `db`" },
  cacheDir: {
    schema: z.string().startsWith("/").default("/var/cache/roost"),
    desc: "An empty embedded database is kept here, to copy new ones from",
  },
  address: { schema: z.string().default("127.0.0.1"), desc: "Address the API listens on; put TLS in front of anything but loopback" },
  port: { schema: z.coerce.number().int().min(0).max(65_535).default(7070), desc: "Port the API listens on; 0 takes a free one" },
  databaseUrl: {
    schema: z.string().startsWith("postgres").optional(),
    desc: "PostgreSQL 15 or newer, as postgres://user:password@host/name; default: the embedded database",
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
  allowedOrigins: {
    schema: originsSchema.default([]),
    desc: "Web origins besides its own that may open WebSockets, comma-separated",
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
