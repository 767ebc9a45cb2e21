import { lstat, readdir, readFile, readlink, realpath, stat } from "node:fs/promises";
import { join, posix, relative, sep } from "node:path";

import { RoostError } from "../../errors.ts";
import { byPath, type ContextEntry } from "./entry.ts";
import { IgnoreRules, isPattern, nameMatcher } from "./patterns.ts";

/** Files and folders of one COPY: above this somebody copies what was not meant, such as a whole disk */
const entriesMax = 500_000;
/** .dockerignore in bytes: it is written by hand */
const ignoreBytesMax = 1024 * 1024;

/** Something that a source names. */
export interface Found {
  /** As it is named, below the context folder; empty for itself */
  readonly path: string;
  /** Where it is, which is what the rules of .dockerignore are about: behind links, below the context folder */
  readonly realPath: string;
  readonly real: string;
  readonly isFolder: boolean;
  /** The file, or all in the folder without itself; paths begin with `prefix` */
  entries(prefix: string): Promise<ContextEntry[]>;
}

/** The folder that COPYs take files from. Nothing outside it is read, and what .dockerignore hides is not there. */
export class ContextFolder {
  readonly #root: string;
  readonly #rules: IgnoreRules;
  /** Sockets, pipes and devices that were left out */
  readonly skipped: string[] = [];

  private constructor(root: string, rules: IgnoreRules) {
    this.#root = root;
    this.#rules = rules;
  }

  /** `dockerfile`: its path, when it has one; a `<dockerfile>.dockerignore` beside it goes before the folder's own. */
  static async open(folder: string, dockerfile?: string): Promise<ContextFolder> {
    const root = await realpath(folder).catch((error: unknown) => {
      throw new RoostError("context_invalid", `there is no folder ${folder}`, { cause: error });
    });
    if (!(await stat(root)).isDirectory()) throw new RoostError("context_invalid", `${folder} is not a folder`);
    const own = dockerfile === undefined ? undefined : await readIfThere(`${dockerfile}.dockerignore`);
    return new ContextFolder(root, new IgnoreRules(own ?? (await readIfThere(join(root, ".dockerignore"))) ?? ""));
  }

  /** A folder of which nothing is hidden. */
  static async unhidden(folder: string): Promise<ContextFolder> {
    return new ContextFolder(await realpath(folder), new IgnoreRules(""));
  }

  /** What a COPY's source names, by path; a link is what it leads to. Nothing: an error. */
  async find(source: string): Promise<Found[]> {
    const path = posix.normalize(source.replace(/^\/+/, "") || ".").replace(/\/+$/, "");
    if (path === ".." || path.startsWith("../")) throw this.#outside(source);
    const names = path === "." ? [] : path.split("/");
    const paths = isPattern(path) ? await this.#matching(names) : [names.join("/")];
    const found: Found[] = [];
    let isHidden = false;
    for (const candidate of paths.sort()) {
      const one = await this.#resolve(candidate, source);
      if (one === "hidden") isHidden = true;
      else if (one !== "missing") found.push(one);
    }
    if (found.length > 0) return found;
    const hidden = isHidden ? "; .dockerignore hides it" : "";
    throw new RoostError("context_invalid", `there is no ${JSON.stringify(source)} in the context folder ${this.#root}${hidden}`);
  }

  async #entries(found: Omit<Found, "entries">, prefix: string): Promise<ContextEntry[]> {
    const entries: ContextEntry[] = [];
    if (found.isFolder) await this.#walk(found.real, found.realPath, prefix, entries);
    else {
      const entry = await this.#entry(found.real, prefix);
      if (entry !== undefined) entries.push(entry);
    }
    return entries.sort(byPath);
  }

  async #walk(real: string, path: string, prefix: string, entries: ContextEntry[]): Promise<void> {
    const names = await readdir(real);
    for (const name of names.sort()) {
      const below = path === "" ? name : `${path}/${name}`;
      const isIgnored = this.#rules.ignores(below);
      if (isIgnored && !this.#rules.hasExceptions) continue;
      if (name.includes("\uFFFD"))
        throw new RoostError("context_invalid", `the name of ${join(real, name)} is not UTF-8; rename it or list it in .dockerignore`);
      const entry = await this.#entry(join(real, name), prefix === "" ? name : `${prefix}/${name}`);
      if (entry === undefined || (isIgnored && entry.kind !== "folder")) continue;
      const at = entries.push(entry);
      if (at > entriesMax)
        throw new RoostError(
          "context_invalid",
          `${real} is part of more than ${entriesMax} files; name less of it, or list the rest in .dockerignore`,
        );
      if (entry.kind === "folder") await this.#walk(join(real, name), below, entry.path, entries);
      // a hidden folder is there only for what is visible in it
      if (isIgnored && entries.length === at) entries.pop();
    }
  }

  async #entry(real: string, path: string): Promise<ContextEntry | undefined> {
    const stats = await lstat(real);
    const mode = stats.mode & 0o7777;
    if (stats.isDirectory()) return { kind: "folder", path, mode };
    if (stats.isSymbolicLink()) return { kind: "link", path, mode: 0o777, target: await readlink(real) };
    if (stats.isFile()) return { kind: "file", path, mode, size: stats.size, file: real };
    this.skipped.push(relative(this.#root, real));
    return undefined;
  }

  async #matching(names: readonly string[]): Promise<string[]> {
    let folders = [""];
    for (const [index, name] of names.entries()) {
      const matches = nameMatcher(name);
      const next: string[] = [];
      for (const folder of folders) {
        const isLast = index === names.length - 1;
        const present = await readdir(join(this.#root, folder), { withFileTypes: true }).catch(() => []);
        for (const entry of present) {
          if (matches(entry.name) && (isLast || !entry.isFile())) next.push(folder === "" ? entry.name : `${folder}/${entry.name}`);
        }
      }
      folders = next;
    }
    return folders;
  }

  async #resolve(path: string, source: string): Promise<Found | "missing" | "hidden"> {
    let real: string;
    try {
      real = await realpath(join(this.#root, path));
    } catch (error) {
      if (!["ENOENT", "ENOTDIR", "ELOOP"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
      return "missing";
    }
    const inside = relative(this.#root, real);
    if (inside === ".." || inside.startsWith(`..${sep}`)) throw this.#outside(source);
    const isFolder = (await stat(real)).isDirectory();
    const realPath = inside.split(sep).join("/");
    const isHidden = [path, realPath].some((candidate) => candidate !== "" && this.#rules.ignores(candidate));
    if (isHidden && !(isFolder && this.#rules.hasExceptions)) return "hidden";
    const at = { path, realPath, real, isFolder };
    const found = { ...at, entries: async (prefix: string) => this.#entries(at, prefix) };
    return isHidden && (await found.entries("")).length === 0 ? "hidden" : found;
  }

  #outside(source: string): RoostError {
    return new RoostError(
      "context_invalid",
      `${JSON.stringify(source)} is outside the context folder ${this.#root}; copy it there, or build from a folder above`,
    );
  }
}

/** All in a folder, without itself. */
export async function walkFolder(folder: string): Promise<ContextEntry[]> {
  const context = await ContextFolder.unhidden(folder);
  const [whole] = await context.find(".");
  return (await whole?.entries("")) ?? [];
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    const text = await readFile(path, "utf8");
    if (text.length > ignoreBytesMax) throw new RoostError("context_invalid", `${path} is longer than ${ignoreBytesMax} characters`);
    return text;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
