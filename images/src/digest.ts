import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";

/** `sha256:<hex>`. */
export type Digest = string;

export function digestOf(data: string | Uint8Array): Digest {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}

export async function digestOfFile(path: string, signal?: AbortSignal): Promise<Digest> {
  const hash = createHash("sha256");
  const stream = createReadStream(path, { highWaterMark: 1 << 20, ...(signal === undefined ? {} : { signal }) });
  for await (const chunk of stream) hash.update(chunk as Buffer);
  return `sha256:${hash.digest("hex")}`;
}

/** Digest of a file or a whole folder: names, kinds, executable bits and contents, in an order that no file system decides. */
export async function digestOfTree(path: string, accept: (name: string) => boolean = () => true): Promise<Digest> {
  const lines: string[] = [];
  await describe(path, ".", accept, lines);
  return digestOf(lines.join("\n"));
}

async function describe(path: string, name: string, accept: (name: string) => boolean, lines: string[]): Promise<void> {
  const stat = await lstat(path);
  if (stat.isSymbolicLink()) lines.push(`link ${JSON.stringify(name)} ${JSON.stringify(await readlink(path))}`);
  else if (stat.isFile()) {
    lines.push(`file ${JSON.stringify(name)} ${(stat.mode & 0o111) === 0 ? "-" : "x"} ${digestOf(await readFile(path))}`);
  } else if (stat.isDirectory()) {
    lines.push(`folder ${JSON.stringify(name)}`);
    for (const entry of (await readdir(path)).sort()) {
      if (accept(entry)) await describe(join(path, entry), `${name}/${entry}`, accept, lines);
    }
  } else throw new Error(`${path} is neither a file, a folder nor a symbolic link`);
}

/** Recipes without their tests: a changed test rebuilds nothing. */
export function isRecipe(name: string): boolean {
  return !name.endsWith(".test.ts");
}

/** Digest of named inputs; the order in which they are named does not matter. */
export function digestOfInputs(inputs: Readonly<Record<string, unknown>>): Digest {
  const names = Object.keys(inputs).sort();
  return digestOf(JSON.stringify(names.map((name) => [name, inputs[name]])));
}
