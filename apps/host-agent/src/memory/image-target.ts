import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

import { PlatformError, sandboxIdPattern } from "@roost/contract";

import { parseGenerationName } from "./image-paths.ts";

/** An image folder, and which generation of it is meant. */
export interface ImageTarget {
  readonly folder: string;
  /** Null: all of them */
  readonly generation: number | null;
}

/** Where image folders are below the state folder. */
const roots = ["sandboxes", "templates"] as const;
/** How many candidates an ambiguous beginning lists */
const shownMax = 5;

/**
 * What a user means: the path of an image folder or of a generation in it, or the id of a sandbox, the beginning of one, or the name of a template below
 * `stateDir`; each may be followed by `:` and a generation's number. Rejects with `sandbox_not_found` or `request_invalid`.
 */
export async function resolveImageTarget(
  target: string,
  context: { readonly stateDir: string; readonly cwd: string },
): Promise<ImageTarget> {
  const [, name = "", digits] = /^(.+?)(?::(\d{1,12}))?$/s.exec(target) ?? [];
  const generation = digits === undefined ? null : Number(digits);
  const folder = name.includes("/") || name === "." ? resolve(context.cwd, name) : await findByName(name, context.stateDir);
  const own = parseGenerationName(basename(folder));
  if (own !== undefined && basename(dirname(folder)) === "generations") {
    if (generation !== null) throw new PlatformError("request_invalid", `${name} is one generation already; name no other`);
    return { folder: dirname(dirname(folder)), generation: own.number };
  }
  if (!existsSync(join(folder, "generations"))) {
    throw new PlatformError("sandbox_not_found", `${folder} holds nothing that was saved of a sandbox`);
  }
  return { folder, generation };
}

async function findByName(name: string, stateDir: string): Promise<string> {
  const found: string[] = [];
  for (const root of roots) {
    const folder = join(stateDir, root);
    const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    const isVisible = names.filter((each) => !each.startsWith("."));
    if (isVisible.includes(name)) return join(folder, name);
    if (root === "sandboxes" && sandboxIdPattern.test(name)) {
      found.push(...isVisible.filter((each) => each.startsWith(name)).map((each) => join(folder, each)));
    }
  }
  const [first, second] = found;
  if (first === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox and no snapshot ${name} in ${stateDir}`);
  if (second === undefined) return first;
  const shown = found.slice(0, shownMax).map((path) => basename(path));
  const more = found.length > shownMax ? ` and ${found.length - shownMax} more` : "";
  throw new PlatformError("request_invalid", `${name} is the beginning of ${found.length} sandboxes: ${shown.join(", ")}${more}`);
}
