import { envsSchema, expirySecMax, forkCountMax, metadataEntriesMax, metadataSchema } from "@roost/contract";
import { hour, second } from "@roost/kit";
import { z } from "zod";

import { e2bNetworkSchema } from "./network.ts";

/** Bodies and queries of E2B's API. Fields that are not here are passed over; `null` means absent, as its clients send it. */

/** What sandboxes get that are created, resumed or forked without a time, in `s`: as E2B has it */
const timeoutSecDefault = 15;
/** The same for the newer routes */
const timeoutSecDefaultV2 = 300;
/** Shortest time in `s` that a refresh gives */
const refreshSecMin = 15;
const refreshSecMax = 3600;
const pageSizeMax = 100;
const tokenLengthMax = 512;
/** A name with its tag and namespace, in characters; what is longer is the name of nothing */
const nameLengthMax = 256;

const optional = <Schema extends z.ZodType>(schema: Schema) => schema.nullish().transform((value) => value ?? undefined);

const hoursMax = expirySecMax / (hour / second);
const timeoutSchema = z.int().max(expirySecMax, `timeout cannot be greater than ${hoursMax} hours`);
const timeToLiveSchema = timeoutSchema.min(1, "timeout must be greater than 0");

/** Of a create: what becomes of the sandbox when its time is up. */
const lifecycleFields = {
  autoPause: optional(z.boolean()),
  autoPauseMemory: optional(z.boolean()),
  autoResume: optional(z.object({ enabled: optional(z.boolean()) })),
};

const newSandboxFields = {
  templateID: z.string().min(1).max(nameLengthMax),
  ...lifecycleFields,
  metadata: optional(metadataSchema),
  envVars: optional(envsSchema),
  allow_internet_access: optional(z.boolean()),
  network: optional(e2bNetworkSchema),
  /** The SDK starts its gateway itself, with a command in the sandbox: there is nothing to do with it here */
  mcp: optional(z.record(z.string(), z.unknown())),
  iam: optional(z.object({ tokens: optional(z.record(z.string(), z.unknown())) })),
  volumeMounts: optional(z.array(z.object({ name: z.string(), path: z.string() }))),
};

export const newSandboxSchema = z.object({
  ...newSandboxFields,
  timeout: optional(timeToLiveSchema).transform((sec) => sec ?? timeoutSecDefault),
  secure: optional(z.boolean()),
});
export type NewE2bSandbox = z.output<typeof newSandboxSchema>;

/** The newer route: always secure. */
export const newSandboxV2Schema = z
  .object({ ...newSandboxFields, timeout: optional(timeToLiveSchema).transform((sec) => sec ?? timeoutSecDefaultV2) })
  .transform((body): NewE2bSandbox => ({ ...body, secure: true }));

export const connectSchema = z.object({ timeout: timeToLiveSchema, memory: optional(z.boolean()) });
export const connectV2Schema = z.object({
  timeout: optional(timeToLiveSchema).transform((sec) => sec ?? timeoutSecDefaultV2),
  memory: optional(z.boolean()),
});
export const resumeSchema = z.object({
  timeout: optional(timeToLiveSchema).transform((sec) => sec ?? timeoutSecDefault),
  autoPause: optional(z.boolean()),
  memory: optional(z.boolean()),
});
export const pauseSchema = z.object({ memory: optional(z.boolean()) });
/** 0: its time is up now */
export const setTimeoutSchema = z.object({ timeout: timeoutSchema.min(0) });
export const refreshSchema = z.object({
  duration: optional(z.int().min(0).max(refreshSecMax)).transform((sec) => Math.max(sec ?? 0, refreshSecMin)),
});
export const forkSchema = z.object({
  timeout: optional(timeToLiveSchema).transform((sec) => sec ?? timeoutSecDefault),
  count: optional(z.int().min(1).max(forkCountMax)).transform((count) => count ?? 1),
});
export const newSnapshotSchema = z.object({ name: optional(z.string().min(1).max(nameLengthMax)) });

const pageFields = {
  limit: optional(z.coerce.number().int().min(1).max(pageSizeMax)).transform((limit) => limit ?? pageSizeMax),
  nextToken: optional(z.string().max(tokenLengthMax)),
};
export const pageQuerySchema = z.object(pageFields);

/** `a,b`, or repeated */
const csvSchema = z.union([z.string(), z.array(z.string())]).transform((given) => [given].flat().flatMap((text) => text.split(",")));

/** `key=value&…`, whose keys and values are percent-encoded, and then all of it once more. */
const metadataFilterSchema = z.string().transform((text, context) => {
  const metadata = parseMetadataFilter(text);
  if (metadata !== undefined) return metadata;
  context.addIssue({ code: "custom", message: `written as key=value&key=value, percent-encoded, at most ${metadataEntriesMax} of them` });
  return z.NEVER;
});

export const listQuerySchema = z.object({
  metadata: optional(metadataFilterSchema),
});
export const listV2QuerySchema = z.object({
  ...pageFields,
  metadata: optional(metadataFilterSchema),
  state: optional(csvSchema.pipe(z.array(z.enum(["running", "paused"])))),
  order: optional(z.enum(["asc", "desc"])).transform((order) => order ?? "desc"),
  startedAfter: optional(z.iso.datetime({ offset: true }).transform((text) => new Date(text))),
  template: optional(z.string().max(nameLengthMax)),
});
export const listSnapshotsQuerySchema = z.object({
  ...pageFields,
  sandboxID: optional(z.string().max(nameLengthMax)),
  name: optional(z.string().max(nameLengthMax)),
});

/** What a metadata filter asks for; undefined when it is none. Takes the value of the query parameter, after the query was decoded. */
export function parseMetadataFilter(text: string): Record<string, string> | undefined {
  const pairs = decode(text)
    ?.split("&")
    .filter((pair) => pair !== "")
    .map((pair) => {
      const at = pair.indexOf("=");
      return [decode(at === -1 ? pair : pair.slice(0, at)), decode(at === -1 ? "" : pair.slice(at + 1))] as const;
    });
  if (pairs === undefined || pairs.length > metadataEntriesMax) return undefined;
  const metadata: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [key, value] of pairs) {
    // neither NUL nor half of a surrogate pair can be in what is stored
    if (key === undefined || value === undefined || key === "" || /\0|\p{Surrogate}/u.test(key + value)) return undefined;
    metadata[key] = value;
  }
  return metadata;
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    return undefined; // not percent-encoding
  }
}
