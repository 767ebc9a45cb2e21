import { z } from "zod";

import { pathLengthMax, recipePackagesMax, recipeStagesMax, recipeStepsMax, stepCommandLengthMax, userNameLengthMax } from "./limits.ts";
import { envsSchema, templateReferenceSchema } from "./sandboxes.ts";

/**
 * A recipe says how a template is made: what it begins from, the steps that change it, and what runs in it when its memory is saved. It is the one form that builds know: E2B's
 * steps and Dockerfiles are translated into it before.
 */

/** Docker's form: `[host[:port]/]path[:tag][@digest]`. What it names exactly is the registry client's business; here only that it is one word and no option. */
export const imageReferenceSchema = z
  .string()
  .max(512)
  .regex(
    /^(?!.*:\/\/)[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$/,
    "must be an image reference such as debian:12-slim or registry.example.com/team/app@sha256:…, without a scheme",
  );

/** How a registry lets somebody in. Never stored: a build that has not yet fetched its image when the control plane restarts fails and says so. */
export const registryCredentialsSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("basic"), username: z.string().min(1).max(256), password: z.string().min(1).max(8192) }),
  z.strictObject({
    type: z.literal("token"),
    token: z
      .string()
      .min(1)
      .max(16_384)
      .describe("An OAuth2 identity token, as `docker login` keeps it; the registry's token server changes it for one that fetches"),
  }),
  z.strictObject({
    type: z.literal("aws"),
    access_key_id: z.string().min(1).max(128),
    secret_access_key: z.string().min(1).max(256),
    region: z.string().regex(/^[a-z0-9-]{1,32}$/, "must be a region such as eu-central-1"),
  }),
  z.strictObject({ type: z.literal("gcp"), service_account_json: z.string().min(2).max(16_384) }),
]);
export type RegistryCredentials = z.infer<typeof registryCredentialsSchema>;

/** SHA-256 of what an uploaded archive holds, as hex; how it is counted is the uploader's business (E2B's SDK has its own way). */
export const filesHashSchema = z.string().regex(/^[0-9a-f]{64}$/, "must be a SHA-256 as 64 hex digits");

const stageNameSchema = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, "must be lower-case letters, digits, '.', '_' and '-'");

export const recipeSourceSchema = z.union([
  z.strictObject({ template: templateReferenceSchema }).describe("Another template, snapshot or base template"),
  z.strictObject({ image: imageReferenceSchema }).describe("An OCI image from a registry"),
  z.strictObject({ archive: filesHashSchema }).describe("An uploaded OCI layout or `docker save` archive, as tar"),
  z
    .strictObject({
      debian: z.strictObject({
        suite: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, "must be a suite such as bookworm"),
        packages: z.array(z.string().regex(/^[a-z0-9][a-z0-9.+-]{1,127}$/, "must be a Debian package name")).max(recipePackagesMax),
      }),
    })
    .describe("Debian packages, installed on the host from its own package sources"),
  z.strictObject({ stage: stageNameSchema }).describe("The end of an earlier stage of this recipe"),
]);
export type RecipeSource = z.infer<typeof recipeSourceSchema>;

const absolutePathSchema = z.string().min(1).max(pathLengthMax);
const userSchema = z.string().min(1).max(userNameLengthMax);
const ofCopy = {
  source: z.string().min(1).max(pathLengthMax).describe("As the user wrote it: for messages, and to name what is in the archive"),
  destination: absolutePathSchema.describe("Relative ones are below the present working directory; with a trailing `/` a folder"),
  user: z
    .string()
    .max(2 * userNameLengthMax + 1)
    .optional()
    .describe("`user` or `user:group` of what is copied; default: the present user"),
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, "must be octal, such as 0755")
    .optional(),
};

export const recipeStepSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("run"),
    command: z.string().min(1).max(stepCommandLengthMax).describe("For `bash -c` where there is one, else `sh -c`"),
    user: userSchema.optional().describe("Default: the present user"),
    force: z.boolean().optional().describe("Not from the cache, and nothing after it"),
  }),
  z.strictObject({ kind: z.literal("copy"), files: filesHashSchema, ...ofCopy, force: z.boolean().optional() }),
  z.strictObject({ kind: z.literal("copy-from-stage"), stage: stageNameSchema, ...ofCopy, force: z.boolean().optional() }),
  z.strictObject({ kind: z.literal("env"), envs: envsSchema }),
  z.strictObject({ kind: z.literal("workdir"), path: absolutePathSchema }),
  z.strictObject({ kind: z.literal("user"), name: userSchema }),
]);
export type RecipeStep = z.infer<typeof recipeStepSchema>;

export const recipeSchema = z
  .strictObject({
    from: recipeSourceSchema,
    steps: z.array(recipeStepSchema).max(recipeStepsMax).default([]),
    stages: z
      .array(z.strictObject({ name: stageNameSchema, from: recipeSourceSchema, steps: z.array(recipeStepSchema).max(recipeStepsMax) }))
      .max(recipeStagesMax)
      .default([])
      .describe("Built before, each from an earlier one at most, for what `copy-from-stage` takes from them"),
    start_command: z.string().min(1).max(stepCommandLengthMax).optional().describe("Runs on in the template's memory"),
    ready_command: z
      .string()
      .min(1)
      .max(stepCommandLengthMax)
      .optional()
      .describe("Tried until it exits with 0; only then is the memory saved"),
    force: z.boolean().default(false).describe("Nothing from the cache"),
  })
  .superRefine(({ from, steps, stages }, context) => {
    const known = new Set<string>();
    const check = (source: RecipeSource, list: readonly RecipeStep[], path: (string | number)[]) => {
      const refuse = (where: (string | number)[]) =>
        context.addIssue({ code: "custom", path: [...path, ...where], message: "must be the name of an earlier stage" });
      if ("stage" in source && !known.has(source.stage)) refuse(["from", "stage"]);
      list.forEach((step, index) => {
        if (step.kind === "copy-from-stage" && !known.has(step.stage)) refuse(["steps", index, "stage"]);
      });
    };
    stages.forEach((stage, index) => {
      check(stage.from, stage.steps, ["stages", index]);
      if (known.has(stage.name))
        context.addIssue({ code: "custom", path: ["stages", index, "name"], message: "must be another than an earlier stage's" });
      known.add(stage.name);
    });
    check(from, steps, []);
  })
  .meta({ id: "Recipe" });
export type Recipe = z.output<typeof recipeSchema>;
export type RecipeInput = z.input<typeof recipeSchema>;

/** What processes of a template's sandboxes get unless they ask for something else, and what runs in it. */
export const templateDefaultsSchema = z.object({
  /** Empty: `user` where there is one, else root */
  user: z.string().max(userNameLengthMax).default(""),
  /** Empty: the user's home */
  workdir: z.string().max(pathLengthMax).default(""),
  envs: envsSchema.default({}),
  /** Empty: nothing */
  startCommand: z.string().max(stepCommandLengthMax).default(""),
  readyCommand: z.string().max(stepCommandLengthMax).default(""),
});
export type TemplateDefaults = z.output<typeof templateDefaultsSchema>;
/** What a template says that says nothing. */
export const noTemplateDefaults: TemplateDefaults = templateDefaultsSchema.parse({});

/** What hosts call templates, where that is no name of users': imported images, cached steps, what builds made, and snapshots (older ones have the names that users gave them). */
export const hostTemplateNames = {
  image: /^image-[0-9a-f]{24}$/,
  step: /^step-[0-9a-f]{40}$/,
  build: /^build-[0-9a-f]{32}$/,
  snapshot: /^snapshot-[0-9a-f]{32}$/,
} as const;

export function isHostTemplateName(name: string): boolean {
  return Object.values(hostTemplateNames).some((pattern) => pattern.test(name));
}

/** States of a build. `waiting`: for its recipe, or for its turn. */
export const buildStates = ["waiting", "building", "ready", "failed", "cancelled"] as const;
export type BuildState = (typeof buildStates)[number];
/** A build in one of these never changes any more. */
export const buildEnded: ReadonlySet<BuildState> = new Set(["ready", "failed", "cancelled"]);

export const buildLogLevels = ["debug", "info", "warn", "error"] as const;
export type BuildLogLevel = (typeof buildLogLevels)[number];

/**
 * What a line of a build's log, or its failure, is about: `base` (what it begins from), the number of a step of the recipe as text (from 0), `stage <name> <number>`, or `finalize` (start
 * command, memory image).
 */
export const buildStepSchema = z.string().max(128);
