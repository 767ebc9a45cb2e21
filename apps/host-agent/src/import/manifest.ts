import { createHash } from "node:crypto";

import { argsMax, envsEntriesMax, envsSchema, pathLengthMax, userNameLengthMax } from "@roost/contract";
import { z } from "zod";

import { documentBytesMax, layersMax } from "./limits.ts";
import { quoted, unusable } from "./unusable.ts";

/** Documents of the OCI image specification, and Docker's of the same content. What is not needed is not looked at. */

export const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/, "must be a SHA-256 digest");

const descriptorSchema = z.object({ mediaType: z.string().max(256).default(""), digest: digestSchema, size: z.int().nonnegative() });
export type Descriptor = z.infer<typeof descriptorSchema>;

const platformSchema = z.object({ os: z.string(), architecture: z.string(), variant: z.string().optional() });

const indexSchema = z.object({
  manifests: z.array(descriptorSchema.extend({ platform: platformSchema.optional() })).max(1_000),
});

const manifestSchema = z.object({ config: descriptorSchema, layers: z.array(descriptorSchema) });
export type Manifest = z.infer<typeof manifestSchema>;

const words = z.array(z.string()).nullish();
const configSchema = z.object({
  os: z.string(),
  architecture: z.string(),
  rootfs: z.object({ diff_ids: z.array(digestSchema) }),
  config: z
    .object({
      User: z.string().nullish(),
      WorkingDir: z.string().nullish(),
      Env: words,
      Entrypoint: words,
      Cmd: words,
      ExposedPorts: z.record(z.string(), z.unknown()).nullish(),
    })
    .nullish(),
});

/** What an image says of processes in it. */
export const imageConfigSchema = z.object({
  user: z.string(),
  workdir: z.string(),
  envs: z.record(z.string(), z.string()),
  entrypoint: z.array(z.string()),
  cmd: z.array(z.string()),
  exposedPorts: z.array(z.string()),
});
export type ImageConfig = z.infer<typeof imageConfigSchema>;

export const noImageConfig: ImageConfig = { user: "", workdir: "", envs: {}, entrypoint: [], cmd: [], exposedPorts: [] };

export interface ReadConfig {
  readonly diffIds: readonly string[];
  readonly config: ImageConfig;
}

export function digestOfText(data: string | Uint8Array): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}

/** An index or a manifest. Throws `image_unusable` for anything else. */
export function readDocument(
  text: string,
): { readonly kind: "index"; readonly manifest: Descriptor } | { readonly kind: "manifest"; readonly manifest: Manifest } {
  const json = parseJson(text);
  if (typeof json === "object" && json !== null && "manifests" in json) {
    return { kind: "index", manifest: chooseManifest(parse(indexSchema, json, "the image's index")) };
  }
  if (typeof json === "object" && json !== null && "fsLayers" in json) {
    throw unusable("the image has the manifest format of Docker before 1.10; push it again with a newer client");
  }
  const manifest = parse(manifestSchema, json, "the image's manifest");
  if (manifest.layers.length > layersMax)
    throw unusable(`the image has ${manifest.layers.length} layers, and ${layersMax} are the most; squash some`);
  return { kind: "manifest", manifest };
}

/** The manifest for our guests. One that says no platform counts when it is the only one. */
function chooseManifest({ manifests }: z.infer<typeof indexSchema>): Descriptor {
  const fitting = manifests.filter(({ platform }) => platform?.os === "linux" && platform.architecture === "amd64");
  const chosen = fitting.find(({ platform }) => (platform?.variant ?? "") === "") ?? fitting[0];
  if (chosen !== undefined) return chosen;
  const [only] = manifests;
  if (only !== undefined && manifests.length === 1 && only.platform === undefined) return only;
  const has = manifests.flatMap(({ platform }) => (platform === undefined ? [] : [`${platform.os}/${platform.architecture}`]));
  throw unusable(`the image is not for linux/amd64; it is for ${quoted([...new Set(has)].join(", ") || "nothing that it names")}`);
}

/** Throws `image_unusable` when it is no configuration of an image, or one for another machine. */
export function readConfig(text: string, manifest: Pick<Manifest, "layers">): ReadConfig {
  const read = parse(configSchema, parseJson(text), "the image's configuration (is it a container image?)");
  if (read.os !== "linux" || read.architecture !== "amd64") {
    throw unusable(
      `the image is for ${quoted(`${read.os}/${read.architecture}`)}, and guests are linux/amd64; choose or build one for that`,
    );
  }
  const diffIds = read.rootfs.diff_ids;
  if (diffIds.length !== manifest.layers.length)
    throw unusable("the image's configuration names other layers than its manifest; push it again");
  return { diffIds, config: toImageConfig(read.config ?? {}) };
}

/** What is too long or misshapen for anybody to use is left out. */
function toImageConfig(config: NonNullable<z.infer<typeof configSchema>["config"]>): ImageConfig {
  const envs: Record<string, string> = {};
  for (const line of config.Env ?? []) {
    const equals = line.indexOf("=");
    const [name, value] = equals === -1 ? [line, ""] : [line.slice(0, equals), line.slice(equals + 1)];
    if (Object.keys(envs).length < envsEntriesMax && envsSchema.safeParse({ [name]: value }).success) envs[name] = value;
  }
  const user = config.User ?? "";
  const workdir = config.WorkingDir ?? "";
  return {
    user: user.length <= 2 * userNameLengthMax + 1 ? user : "",
    workdir: workdir.startsWith("/") && workdir.length <= pathLengthMax ? workdir : "",
    envs,
    entrypoint: (config.Entrypoint ?? []).slice(0, argsMax),
    cmd: (config.Cmd ?? []).slice(0, argsMax),
    exposedPorts: Object.keys(config.ExposedPorts ?? {})
      .filter((port) => port.length <= 16)
      .slice(0, argsMax),
  };
}

export function parse<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw unusable(`${what} cannot be read; push the image again`, `${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}`);
}

export function parseJson(text: string): unknown {
  if (text.length > documentBytesMax) throw unusable("a document of the image is too large");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw unusable("a document of the image is not JSON; push the image again", undefined, error);
  }
}
