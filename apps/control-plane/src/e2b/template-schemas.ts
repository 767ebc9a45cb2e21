import { buildLogLevels, buildTagsMax, memoryMibMax, memoryMibMin, recipeStepsMax, vcpusMax } from "@roost/contract";
import { z } from "zod";

/** Bodies and queries of E2B's API about templates and builds; like ./schemas.ts. */

/** What sandboxes of a template have that was built without sizes: as E2B has it */
const vcpusDefault = 2;
const memoryMibDefault = 1024;
const nameLengthMax = 256;
/** Most entries of one answer about a build's log */
const logEntriesMax = 100;
/** Longest argument of a step; what it becomes has limits of its own */
const argLengthMax = 256 * 1024;
const argsMax = 1_024;

const optional = <Schema extends z.ZodType>(schema: Schema) => schema.nullish().transform((value) => value ?? undefined);
const nameSchema = z.string().min(1).max(nameLengthMax);
const tagsSchema = z.array(nameSchema).max(buildTagsMax);

export const requestBuildSchema = z
  .object({
    name: optional(nameSchema),
    alias: optional(nameSchema),
    tags: optional(tagsSchema),
    cpuCount: optional(z.int().min(1).max(vcpusMax)).transform((count) => count ?? vcpusDefault),
    memoryMB: optional(z.int().min(memoryMibMin).max(memoryMibMax)).transform((mib) => mib ?? memoryMibDefault),
  })
  .transform(({ name, alias, ...rest }, context) => {
    const given = name ?? alias;
    if (given !== undefined) return { ...rest, name: given };
    context.addIssue({ code: "custom", path: ["name"], message: "a template needs a name" });
    return z.NEVER;
  });

const registrySchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("aws"), awsAccessKeyId: z.string(), awsSecretAccessKey: z.string(), awsRegion: z.string() }),
  z.object({ type: z.literal("gcp"), serviceAccountJson: z.string() }),
  z.object({ type: z.literal("registry"), username: z.string(), password: z.string() }),
]);
export type E2bRegistry = z.output<typeof registrySchema>;

const stepSchema = z.object({
  type: z.string().min(1).max(64),
  args: optional(z.array(z.string().max(argLengthMax)).max(argsMax)).transform((args) => args ?? []),
  filesHash: optional(z.string()),
  force: optional(z.boolean()),
});
export type E2bStep = z.output<typeof stepSchema>;

export const startBuildSchema = z.object({
  fromImage: optional(z.string().max(1024)),
  fromTemplate: optional(z.string().max(nameLengthMax)),
  fromImageRegistry: optional(registrySchema),
  force: optional(z.boolean()),
  steps: optional(z.array(stepSchema).max(recipeStepsMax)).transform((steps) => steps ?? []),
  startCmd: optional(z.string()),
  readyCmd: optional(z.string()),
});
export type StartE2bBuild = z.output<typeof startBuildSchema>;

const limitSchema = z.coerce
  .number()
  .int()
  .min(0)
  .default(logEntriesMax)
  .transform((limit) => Math.min(limit, logEntriesMax));

export const buildStatusQuerySchema = z.object({
  logsOffset: z.coerce.number().int().min(0).max(0x7fff_ffff).default(0),
  limit: limitSchema,
  level: z.enum(buildLogLevels).optional(),
});

export const buildLogsQuerySchema = z.object({
  /** Unix `ms` that a date can hold */
  cursor: z.coerce.number().int().min(0).max(8_640_000_000_000_000).optional(),
  limit: limitSchema,
  direction: z.enum(["forward", "backward"]).default("forward"),
  level: z.enum(buildLogLevels).optional(),
});

export const updateTemplateSchema = z.object({ public: optional(z.boolean()) });
export const assignTagsSchema = z.object({ target: nameSchema, tags: tagsSchema.min(1) });
export const removeTagsSchema = z.object({ name: nameSchema, tags: tagsSchema.min(1) });
