import { readFile, stat } from "node:fs/promises";
import { join, relative, resolve } from "node:path";

import type { BuildSource } from "@roost/sdk";

import type { CommandContext } from "../../context.ts";
import { UsageError } from "../../failure.ts";

export interface SourceOptions {
  readonly file?: string;
  readonly buildArg?: Readonly<Record<string, string>>;
  readonly target?: string;
  readonly fromImage?: string;
  readonly fromArchive?: string;
  readonly fromTemplate?: string;
  readonly fromDebian?: string;
  readonly packages?: readonly string[];
  /** false: `--no-start` */
  readonly start?: string | boolean;
  readonly ready?: string;
  readonly cache: boolean;
}

/** What a folder is looked through for, in this order */
const fileNames = ["Dockerfile", "recipe.json"];

/** What to build: a file and the folder it copies from, or an image, template or Debian suite as it is. */
export async function buildSource(context: CommandContext, folder: string | undefined, options: SourceOptions): Promise<BuildSource> {
  const from = sourceWithoutFolder(context, options);
  if (from === undefined) return fromFolder(context, folder ?? ".", options);
  onlyDockerfiles(options);
  if (folder !== undefined || options.file !== undefined) {
    throw new UsageError(
      "an image, template or Debian suite is built as it is, without a folder or file",
      "for more write a Dockerfile that begins FROM it",
    );
  }
  return { ...from, ...commandsOf(options) };
}

function sourceWithoutFolder(context: CommandContext, options: SourceOptions): BuildSource | undefined {
  const { fromImage, fromArchive, fromTemplate, fromDebian, packages } = options;
  const given: BuildSource[] = [
    ...(fromImage === undefined ? [] : [{ recipe: { from: { image: fromImage } } }]),
    ...(fromArchive === undefined ? [] : [{ imageArchive: resolve(context.io.cwd, fromArchive) }]),
    ...(fromTemplate === undefined ? [] : [{ recipe: { from: { template: fromTemplate } } }]),
    ...(fromDebian === undefined ? [] : [{ recipe: { from: { debian: { suite: fromDebian, packages: [...(packages ?? [])] } } } }]),
  ];
  if (given.length > 1) throw new UsageError("--from-image, --from-archive, --from-template and --from-debian exclude each other");
  if (packages !== undefined && fromDebian === undefined) throw new UsageError("--packages goes with --from-debian");
  return given[0];
}

async function fromFolder(context: CommandContext, folder: string, options: SourceOptions): Promise<BuildSource> {
  const { buildArg, target } = options;
  const at = resolve(context.io.cwd, folder);
  const path = options.file === undefined ? await findFile(at, folder) : resolve(context.io.cwd, options.file);
  const text = await readFile(path, "utf8");
  // as short as what people typed, for messages
  const file = relative(context.io.cwd, path) || path;
  if (!path.endsWith(".json")) return { dockerfile: text, context: at, file, path, buildArgs: buildArg, target, ...commandsOf(options) };
  onlyDockerfiles(options);
  return { recipe: text, context: at, file, ...commandsOf(options) };
}

/** `--no-start` is an empty command. */
function commandsOf({ start, ready, cache }: SourceOptions) {
  return { startCommand: typeof start === "string" ? start : start === false ? "" : undefined, readyCommand: ready, force: !cache };
}

function onlyDockerfiles({ buildArg, target }: SourceOptions): void {
  if (buildArg !== undefined || target !== undefined) throw new UsageError("--build-arg and --target are for Dockerfiles");
}

async function findFile(at: string, folder: string): Promise<string> {
  for (const name of fileNames) {
    const path = join(at, name);
    if (await isFile(path)) return path;
  }
  throw new UsageError(
    `there is neither a ${fileNames.join(" nor a ")} in ${folder}`,
    "name the file with -f, or a source such as --from-image",
  );
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false; // not there, or not to be seen: what is asked for by name fails with its reason
  }
}
