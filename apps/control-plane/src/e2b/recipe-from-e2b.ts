import { PlatformError, recipeSchema, type Recipe, type RecipeInput, type RegistryCredentials } from "@roost/contract";

import { parse } from "../http/validation.ts";
import type { E2bRegistry, E2bStep, StartE2bBuild } from "./template-schemas.ts";

/**
 * E2B's steps as a recipe. One step becomes one step. A build from an image begins as E2B's builder does, as `user` in its home: those two steps were not written by the caller, whose own are
 * counted from 1 (see `stepToE2b`).
 */

type Step = NonNullable<RecipeInput["steps"]>[number];

/** E2B's own base image has here the same content as the base template */
const e2bBaseImage = /^(?:docker\.io\/)?e2bdev\/base(?::latest)?$/;
const baseTemplate = "base";
const builderSteps = [
  { kind: "user", name: "user" },
  { kind: "workdir", path: "/home/user" },
] as const satisfies readonly Step[];

export function recipeFromE2b(build: StartE2bBuild): Recipe {
  const steps = build.steps.map(stepFrom);
  const from = sourceOf(build);
  const asBuilder = "image" in from || from.template === baseTemplate;
  const recipe: RecipeInput = {
    from,
    steps: asBuilder ? [...builderSteps, ...steps] : steps,
    ...(build.startCmd === undefined || build.startCmd === "" ? {} : { start_command: build.startCmd }),
    ...(build.readyCmd === undefined || build.readyCmd === "" ? {} : { ready_command: build.readyCmd }),
    force: build.force ?? false,
  };
  return parse(recipeSchema, recipe, "the recipe");
}

function sourceOf({ fromImage, fromTemplate }: StartE2bBuild): { readonly image: string } | { readonly template: string } {
  if (fromImage !== undefined && fromImage !== "" && fromTemplate !== undefined && fromTemplate !== "") {
    throw invalid("fromImage, fromTemplate: a template begins from one of them, not both");
  }
  if (fromTemplate !== undefined && fromTemplate !== "")
    return { template: fromTemplate.replace(/^[^/:]*\//, (namespace) => namespace.toLowerCase()).replace(/:default$/, "") };
  if (fromImage === undefined || fromImage === "")
    throw invalid("fromImage or fromTemplate is missing: a template begins from an image or another template");
  return e2bBaseImage.test(fromImage) ? { template: baseTemplate } : { image: fromImage };
}

function stepFrom({ type, args, filesHash, force }: E2bStep, index: number): Step {
  const [first = "", second = "", third = "", fourth = ""] = args;
  const forced = force === true ? { force } : {};
  const wrong = (what: string) => invalid(`steps.${index}: ${type} ${what}`);
  switch (type.toUpperCase()) {
    case "RUN":
      if (first === "") throw wrong("needs a command");
      return { kind: "run", command: first, ...(second === "" ? {} : { user: second }), ...forced };
    case "COPY":
      if (first === "" || second === "") throw wrong("needs a source and a destination");
      if (filesHash === undefined) throw wrong("needs a filesHash, under which its files were uploaded");
      return {
        kind: "copy",
        files: filesHash,
        source: first,
        destination: second,
        ...(third === "" ? {} : { user: third }),
        ...(fourth === "" ? {} : { mode: fourth }),
        ...forced,
      };
    case "ENV":
      if (args.length === 0 || args.length % 2 !== 0) throw wrong("needs pairs of a name and a value");
      return { kind: "env", envs: Object.fromEntries(pairs(args)) };
    case "WORKDIR":
      if (first === "") throw wrong("needs a folder");
      return { kind: "workdir", path: first };
    case "USER":
      if (first === "") throw wrong("needs the name of a user");
      return { kind: "user", name: first };
    default:
      throw wrong("is not known: there are RUN, COPY, ENV, WORKDIR and USER");
  }
}

function pairs(args: readonly string[]): [string, string][] {
  return args.flatMap((name, index): [string, string][] => (index % 2 === 0 ? [[name, args[index + 1] ?? ""]] : []));
}

export function credentialsFromE2b(registry: E2bRegistry | undefined): RegistryCredentials | undefined {
  switch (registry?.type) {
    case undefined:
      return undefined;
    case "aws":
      return {
        type: "aws",
        access_key_id: registry.awsAccessKeyId,
        secret_access_key: registry.awsSecretAccessKey,
        region: registry.awsRegion,
      };
    case "gcp":
      return { type: "gcp", service_account_json: registry.serviceAccountJson };
    case "registry":
      return { type: "basic", username: registry.username, password: registry.password };
  }
}

/** A step as E2B's clients count: `base`, from 1, `finalize`. */
export function stepToE2b(step: string | null, recipe: Recipe | null): string | undefined {
  if (step === null) return undefined;
  if (step === "base" || step === "finalize") return step;
  if (!/^\d+$/.test(step)) return "base"; // of an earlier stage, which E2B does not have
  const number = Number(step) + 1 - ownSteps(recipe);
  return number < 1 ? "base" : String(number);
}

/** Steps at the beginning that the caller did not write. */
function ownSteps(recipe: Recipe | null): number {
  if (recipe === null || !("image" in recipe.from || ("template" in recipe.from && recipe.from.template === baseTemplate))) return 0;
  const [first, second] = recipe.steps;
  const [user, workdir] = builderSteps;
  const begins = first?.kind === "user" && first.name === user.name && second?.kind === "workdir" && second.path === workdir.path;
  return begins ? builderSteps.length : 0;
}

function invalid(message: string): PlatformError {
  return new PlatformError("request_invalid", message);
}
