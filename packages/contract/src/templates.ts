import { z } from "zod";

import {
  buildTagsMax,
  memoryMibDefault,
  memoryMibMax,
  memoryMibMin,
  pageSizeDefault,
  pageSizeMax,
  vcpusDefault,
  vcpusMax,
} from "./limits.ts";
import {
  buildLogLevels,
  buildStates,
  buildStepSchema,
  recipeSchema,
  registryCredentialsSchema,
  templateDefaultsSchema,
} from "./recipes.ts";
import { templateReferenceSchema, templateSchema } from "./sandboxes.ts";

/** Templates that builds make, and builds, as the native API has them. */

/** Longest name of a built template and longest tag, in characters: both together are the name of a template */
export const templatePartLengthMax = 63;

/** What a built template may be called: E2B's rule, but it begins with a letter or digit, so that it is no option of a command. */
export const builtNameSchema = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9][a-z0-9_-]{0,${templatePartLengthMax - 1}}(?::[a-z0-9][a-z0-9._-]{0,${templatePartLengthMax - 1}})?$`),
    `a template's name has at most ${templatePartLengthMax} lower-case letters, digits, '-' and '_'; a tag may follow after ':'`,
  );

const uuidPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
export const buildIdSchema = z.string().regex(uuidPattern, "must be the id of a build, a UUID").describe("Id of a build");

export const templateTagSchema = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9][a-z0-9._-]{0,${templatePartLengthMax - 1}}$`),
    `a tag has at most ${templatePartLengthMax} lower-case letters, digits, '.', '-' and '_'`,
  )
  .refine((tag) => !uuidPattern.test(tag), "must not be a UUID: that is the id of a build");

export const templateDetailSchema = templateSchema
  .extend({
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime().describe("When a build of it was last ready"),
    tag_builds: z.array(z.object({ tag: z.string(), build_id: buildIdSchema, created_at: z.iso.datetime() })).describe("By tag"),
    defaults: z
      .object({
        user: z.string().describe("Empty: `user` where there is one, else root"),
        workdir: z.string().describe("Empty: the user's home"),
        envs: templateDefaultsSchema.shape.envs,
        start_command: z.string().describe("Runs in its memory; empty: nothing"),
        ready_command: z.string(),
      })
      .describe("Of processes in its sandboxes"),
  })
  .meta({ id: "TemplateDetail" });
export type TemplateDetail = z.infer<typeof templateDetailSchema>;

export const updateTemplateBodySchema = z
  .strictObject({
    is_public: z
      .boolean()
      .describe("Whether every team may list it, start sandboxes from it, and so read all that is in it, its memory too"),
  })
  .meta({ id: "UpdateTemplate" });
export type UpdateTemplateInput = z.input<typeof updateTemplateBodySchema>;

export const setTagBodySchema = z
  .strictObject({ build_id: buildIdSchema.optional().describe("Default: the build that the template's name, with its tag, means now") })
  .meta({ id: "SetTag" });
export type SetTagInput = z.input<typeof setTagBodySchema>;

export const filesQuerySchema = z.strictObject({ name: builtNameSchema.describe("The template that the files are for") });
export const filesPresenceSchema = z.object({ is_present: z.boolean() }).meta({ id: "FilesPresence" });
export type FilesPresence = z.infer<typeof filesPresenceSchema>;

export const createBuildBodySchema = z
  .strictObject({
    name: builtNameSchema.describe("Of the template, which is made when there is none; with a tag that the build gets when it is ready"),
    tags: z
      .array(templateTagSchema)
      .max(buildTagsMax)
      .default([])
      .describe("Tags besides that of the name; `default` when there is none at all"),
    vcpus: z.int().min(1).max(vcpusMax).default(vcpusDefault).describe("Virtual CPUs of the build, and of every sandbox from the template"),
    memory_mb: z.int().min(memoryMibMin).max(memoryMibMax).default(memoryMibDefault).describe("Guest memory in `MiB`, likewise"),
    recipe: recipeSchema,
    credentials: registryCredentialsSchema
      .optional()
      .describe(
        "For the registry of the image that the recipe begins from, `from` or what its stage begins from; other registries are asked without",
      ),
  })
  .meta({ id: "CreateBuild" });
export type CreateBuildInput = z.input<typeof createBuildBodySchema>;
export type CreateBuildBody = z.output<typeof createBuildBodySchema>;

export const buildSchema = z
  .object({
    id: buildIdSchema,
    template: z.string().describe("Name of its template"),
    template_id: z.string(),
    state: z.enum(buildStates).describe("`waiting` for its turn, `building`, and one of `ready`, `failed`, `cancelled`, which it stays"),
    is_cancelling: z.boolean().describe("It is to be cancelled, and is being ended"),
    tags: z.array(z.string()).describe("That it gets, or got, when it is ready"),
    vcpus: z.int(),
    memory_mb: z.int(),
    step_count: z.int().describe("Steps of its recipe, those of stages with them"),
    steps_done: z.int(),
    steps_cached: z.int().describe("How many of those came from the cache"),
    size_bytes: z.number().nullable().describe("Of the template on its host's disk; null until it is ready"),
    failure: z
      .object({
        message: z.string(),
        step: buildStepSchema.nullable().describe("`base`, number of a step from 0, `stage <name> <number>`, `finalize`"),
      })
      .nullable()
      .describe("What it failed of"),
    created_at: z.iso.datetime(),
    started_at: z.iso.datetime().nullable(),
    ended_at: z.iso.datetime().nullable(),
  })
  .meta({ id: "Build" });
export type Build = z.infer<typeof buildSchema>;

export const listBuildsQuerySchema = z.strictObject({
  template: templateReferenceSchema.optional().describe("Name or id"),
  state: z.enum(buildStates).optional(),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(256).optional().describe("`next_cursor` of the page before"),
});
export type ListBuildsQuery = z.output<typeof listBuildsQuerySchema>;
export const buildListSchema = z
  .object({ builds: z.array(buildSchema).describe("Newest first"), next_cursor: z.string().nullable().describe("null on the last page") })
  .meta({ id: "BuildList" });
export type BuildList = z.infer<typeof buildListSchema>;

export const buildLogLineSchema = z
  .object({
    number: z.int().describe("From 0, without gaps"),
    time: z.iso.datetime(),
    level: z.enum(buildLogLevels),
    step: buildStepSchema.nullable().describe("As in a build's failure; null: of none"),
    message: z.string(),
  })
  .meta({ id: "BuildLogLine" });
export type BuildLogLine = z.infer<typeof buildLogLineSchema>;

const offsetSchema = z.coerce.number().int().min(0).max(0x7fff_ffff).default(0);
export const buildLogsQuerySchema = z.strictObject({
  offset: offsetSchema.describe("Lines to pass over, of those that match"),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  level: z.enum(buildLogLevels).optional().describe("At least"),
  direction: z.enum(["forward", "backward"]).default("forward").describe("`backward`: from the newest"),
});
export const buildLogsSchema = z
  .object({
    lines: z.array(buildLogLineSchema),
    next_offset: z.int().nullable().describe("Of the next page; null when there is no more for now"),
  })
  .meta({ id: "BuildLogs" });
export type BuildLogs = z.infer<typeof buildLogsSchema>;

export const buildStreamQuerySchema = z.strictObject({ offset: offsetSchema.describe("Number of the first line") });
/** The build comes first and whenever it has changed, lines as they are written; `end` is the last message, with the build as it ended. */
export const buildStreamServerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("build"), build: buildSchema }),
  z.object({ type: z.literal("line"), line: buildLogLineSchema }),
  z.object({ type: z.literal("end"), build: buildSchema }),
  z.object({ type: z.literal("error"), code: z.string(), data: z.string() }),
]);
export type BuildStreamServerMessage = z.infer<typeof buildStreamServerSchema>;
