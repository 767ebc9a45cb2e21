import { z } from "zod";

import { hostTagSchema, hostTagsMax } from "./host-registration.ts";
import { seenHostStates } from "./hosts.ts";
import { sandboxIdSchema } from "./ids.ts";
import {
  checkpointIntervalSecMax,
  checkpointIntervalSecMin,
  envNameLengthMax,
  envsEntriesMax,
  envValueLengthMax,
  memoryMibDefault,
  memoryMibMax,
  memoryMibMin,
  metadataEntriesMax,
  metadataKeyLengthMax,
  metadataValueLengthMax,
  pageSizeDefault,
  pageSizeMax,
  templateNameLengthMax,
  templateReferenceLengthMax,
  timeoutSecDefault,
  timeoutSecMax,
  vcpusDefault,
  vcpusMax,
} from "./limits.ts";
import { sandboxEgressBodySchema } from "./network.ts";
import { portPolicySchema } from "./ports.ts";
import { sandboxStates } from "./sandbox-state.ts";

/** Tag of a template that is named without one: `x` is `x:default`, and only the short form is a name here. */
export const templateTagDefault = "default";

const templateNameRule =
  "a template name starts with a letter or digit and holds letters, digits, '.', '_' and '-'; a tag like that may follow after ':'";
const noDefaultTag = `leave out ":${templateTagDefault}": that is what no tag means`;
const hasNoDefaultTag = (name: string) => !name.endsWith(`:${templateTagDefault}`);

export const templateNameSchema = z
  .string()
  .max(templateNameLengthMax)
  .regex(/^[a-zA-Z0-9][a-zA-Z0-9._-]*(?::[a-zA-Z0-9][a-zA-Z0-9._-]*)?$/, templateNameRule)
  .refine(hasNoDefaultTag, noDefaultTag);

/** A template that is to be there: one's own, or `slug/name` of a team that lets everybody use it. */
export const templateReferenceSchema = z
  .string()
  .max(templateReferenceLengthMax)
  .regex(
    /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?[/])?[a-zA-Z0-9][a-zA-Z0-9._-]*(?::[a-zA-Z0-9][a-zA-Z0-9._-]*)?$/,
    `${templateNameRule}; another team's begins with that team's slug and '/'`,
  )
  .refine(hasNoDefaultTag, noDefaultTag);

const noNul = (text: string) => !text.includes("\0");

export const envsSchema = z
  .record(
    z
      .string()
      .max(envNameLengthMax)
      .regex(/^[^=\0]+$/, "an environment name is not empty and holds no '=' or NUL"),
    z.string().max(envValueLengthMax).refine(noNul, "must not hold NUL"),
  )
  .refine((envs) => Object.keys(envs).length <= envsEntriesMax, `at most ${envsEntriesMax} variables`)
  .describe("Environment variables");

/** What PostgreSQL can store as text: neither NUL nor half of a surrogate pair. */
const isStorable = (text: string) => !/\0|\p{Surrogate}/u.test(text);
const notStorable = "must be well-formed text without NUL";

export const metadataSchema = z
  .record(
    z.string().min(1).max(metadataKeyLengthMax).refine(isStorable, notStorable),
    z.string().max(metadataValueLengthMax).refine(isStorable, notStorable),
  )
  .refine((metadata) => Object.keys(metadata).length <= metadataEntriesMax, `at most ${metadataEntriesMax} entries`)
  .describe("Labels of yours; the list can be filtered by them");

const timeoutSecSchema = z
  .int()
  .min(0)
  .max(timeoutSecMax)
  .describe(
    "Inactivity in `s` after which the sandbox is paused, never destroyed; 0 = never. Running commands, terminals and traffic are activity",
  );

const checkpointIntervalSecSchema = z
  .int()
  .min(0)
  .max(checkpointIntervalSecMax)
  .refine((sec) => sec === 0 || sec >= checkpointIntervalSecMin, `0, or at least ${checkpointIntervalSecMin}`)
  .describe("Time between checkpoints in `s` while it runs; 0 = none");

export const createSandboxBodySchema = z
  .strictObject({
    template: templateReferenceSchema.default("base").describe("What the sandbox starts from"),
    vcpus: z
      .int()
      .min(1)
      .max(vcpusMax)
      .optional()
      .describe(`Virtual CPUs; default: as the template says, else ${vcpusDefault}. A snapshot with memory has its own, and no other`),
    memory_mb: z
      .int()
      .min(memoryMibMin)
      .max(memoryMibMax)
      .optional()
      .describe(`Guest memory in \`MiB\`; default: as the template says, else ${memoryMibDefault}. Fixed like \`vcpus\``),
    timeout_sec: timeoutSecSchema.default(timeoutSecDefault),
    checkpoint_interval_sec: checkpointIntervalSecSchema.default(0),
    network: sandboxEgressBodySchema.optional().describe("What its guest may reach and use; default: the internet"),
    ports: portPolicySchema.optional().describe("Who may reach its ports; default: all are private"),
    auto_resume: z
      .boolean()
      .default(false)
      .describe("Whether a request that needs the guest of the paused sandbox resumes it; without, such a request is refused"),
    metadata: metadataSchema.default({}),
    envs: envsSchema.default({}),
    host_tags: z
      .array(hostTagSchema)
      .max(hostTagsMax)
      .default([])
      .describe("Only hosts that have all these tags; each also has `accelerator=` and `arch=` with what it is"),
  })
  .meta({ id: "CreateSandbox" });
export type CreateSandboxBody = z.output<typeof createSandboxBodySchema>;
export type CreateSandboxInput = z.input<typeof createSandboxBodySchema>;

const instantSchema = z.iso.datetime();

/** What happens to a sandbox when its time is up. */
export const expiryActions = ["delete", "pause"] as const;
export type ExpiryAction = (typeof expiryActions)[number];

export const sandboxSchema = z
  .object({
    id: sandboxIdSchema,
    state: z.enum(sandboxStates),
    host_state: z
      .enum(seenHostStates)
      .nullable()
      .describe(
        "Of the host it is on; `unreachable`: it was not heard of for a while, and `state` is what was true before; null: it has stopped",
      ),
    template: z.string(),
    vcpus: z.int(),
    memory_mb: z.int().describe("Guest memory in `MiB`"),
    disk_mb: z.int().describe("Size of the guest's disk in `MiB`"),
    timeout_sec: z.int().describe("Inactivity in `s` after which the sandbox is paused; 0 = never"),
    checkpoint_interval_sec: z.int().describe("Time between checkpoints in `s`; 0 = none"),
    auto_resume: z.boolean().describe("Whether a request that needs its guest resumes it"),
    metadata: z.record(z.string(), z.string()),
    created_at: instantSchema,
    started_at: instantSchema.nullable().describe("When its first command could run"),
    last_active_at: instantSchema,
    stopped_at: instantSchema.nullable(),
    stop_reason: z.string().nullable().describe("`deleted`, `shutdown`, or `host_deleted`"),
    start_path: z
      .string()
      .nullable()
      .describe("What served its last start: `pool` (a VM that was waiting), `restore` (from memory), `boot`; null before the first"),
    current_generation: z.int().nullable().describe("Number of the generation that a resume goes back to; null: none yet"),
    has_memory: z.boolean().describe("Whether that generation has memory"),
    paused_at: instantSchema.nullable().describe("Since when it has been paused"),
    expires_at: instantSchema
      .nullable()
      .describe("When its time is up, which no use of it moves; null: never, or it does not run. Set through the E2B API only"),
    expiry_action: z.enum(expiryActions).describe("What happens then"),
    notice: z.string().nullable().describe("What you should know of it now, such as that it went back to an earlier generation, and why"),
    failure_reason: z.string().nullable().describe("Set exactly when `state` is `failed`"),
    vm_exit: z
      .object({ exit_code: z.int().nullable(), signal: z.string().nullable(), console_tail: z.array(z.string()) })
      .nullable()
      .describe("How the VM ended, when it ended by itself: exit code or signal, and its last console lines"),
    versions: z.record(z.string(), z.string()).describe("`kernel`, `vmm`, `accelerator`, `guest_agent`"),
  })
  .meta({ id: "Sandbox" });
export type Sandbox = z.infer<typeof sandboxSchema>;

const csvOf = <Value extends string>(values: readonly [Value, ...Value[]]) =>
  z
    .string()
    .transform((text) => text.split(","))
    .pipe(z.array(z.enum(values)));

export const listSandboxesQuerySchema = z.strictObject({
  state: csvOf(sandboxStates).optional().describe("Comma-separated states; default: all but `stopped`"),
  template: templateReferenceSchema.optional(),
  metadata: z
    .union([z.string(), z.array(z.string())])
    .transform((given) => (typeof given === "string" ? [given] : given))
    .pipe(
      z
        .array(
          z
            .string()
            .regex(/^[^=]+=/, "written as key=value")
            .refine(isStorable, notStorable),
        )
        .max(metadataEntriesMax),
    )
    .optional()
    .describe("`key=value`, repeatable; all must match"),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(256).optional().describe("`next_cursor` of the page before"),
});
export type ListSandboxesQuery = z.output<typeof listSandboxesQuerySchema>;

export const sandboxListSchema = z
  .object({
    sandboxes: z.array(sandboxSchema).describe("Newest first"),
    next_cursor: z.string().nullable().describe("null on the last page"),
  })
  .meta({ id: "SandboxList" });
export type SandboxList = z.infer<typeof sandboxListSchema>;

export const setTimeoutBodySchema = z.strictObject({ timeout_sec: timeoutSecSchema }).meta({ id: "SetTimeout" });

/** Range of a metrics query → its length in `s`. Hosts know the last day in memory, what is before it is in the database. */
export const metricsRanges = {
  "5m": 300,
  "10m": 600,
  "1h": 3600,
  "2h": 7200,
  "6h": 21_600,
  "12h": 43_200,
  "24h": 86_400,
  "7d": 604_800,
  "30d": 2_592_000,
} as const;
export type MetricsRange = keyof typeof metricsRanges;

export const metricsQuerySchema = z.strictObject({
  range: z.enum(Object.keys(metricsRanges) as [MetricsRange, ...MetricsRange[]]).default("10m"),
});

export const metricsSchema = z
  .object({
    sandbox_id: sandboxIdSchema,
    range: z.string(),
    memory_total_bytes: z.number(),
    disk_total_bytes: z.number(),
    points: z.array(
      z.object({
        timestamp_unix: z.int(),
        cpu_pct: z.number().describe("Share of the sandbox's vCPUs in use, 0 to 100"),
        mem_bytes: z.number().describe("Memory used in the guest"),
        disk_bytes: z.number().describe("Disk used in the guest"),
      }),
    ),
  })
  .meta({ id: "Metrics" });
export type Metrics = z.infer<typeof metricsSchema>;

export const logsQuerySchema = z.strictObject({
  bytes: z.coerce
    .number()
    .int()
    .min(1)
    .max(1024 * 1024)
    .default(64 * 1024)
    .describe("At most this many of the newest bytes"),
});

/** What served a start: a VM that was waiting, a memory image, a kernel that booted. */
export const startPaths = ["pool", "restore", "boot"] as const;
export type StartPath = (typeof startPaths)[number];

export const templateKinds = ["base", "snapshot", "built"] as const;
export type TemplateKind = (typeof templateKinds)[number];
export const templateSchema = z
  .object({
    name: z.string(),
    kind: z.enum(templateKinds).describe("`base`: of the hosts; `snapshot`: of a sandbox; `built`: by a build"),
    id: z.string().nullable().describe("Of a built one, which its name can be given as"),
    build_id: z.string().nullable().describe("Of a built one: the build that its name means without a tag; null: none yet"),
    tags: z.array(z.string()).describe("Of a built one"),
    is_public: z.boolean(),
    digest: z.string(),
    disk_mb: z.int(),
    has_memory: z.boolean().describe("Sandboxes start from memory"),
    vcpus: z.int().nullable().describe("Of every sandbox from it; null: any"),
    memory_mb: z.int().nullable().describe("Guest memory in `MiB` of every sandbox from it; null: any"),
  })
  .meta({ id: "Template" });
export type Template = z.infer<typeof templateSchema>;
export const templateListSchema = z.object({ templates: z.array(templateSchema) }).meta({ id: "TemplateList" });
