import { randomBytes } from "node:crypto";
import { posix } from "node:path";
import { PassThrough, type Readable } from "node:stream";

import type { RecipeStep } from "@roost/contract";

import { ScriptFailed, type BuildGuest } from "./build-guest.ts";
import { script } from "./guest-command.ts";
import { matchScript, packScript, placeScript, removeScript, unpackScript } from "./scripts.ts";
import { expand, pathIn, withHome, type StepContext } from "./step-context.ts";
import { startOf } from "./stream-start.ts";

/**
 * COPY. What is copied comes as an archive, which is unpacked in the guest and nowhere else, into a folder on the disk of its destination, and is put in its place from there by renaming.
 *
 * What of an archive is meant is the source less its pattern: `src` and `src/*` are `src`, `*.txt` is all of it. A folder's content goes into the destination, which is made; a file becomes the
 * destination, or goes into it where that is a folder or ends with `/`.
 */

export type CopyStep = Extract<RecipeStep, { readonly kind: "copy" | "copy-from-stage" }>;

/** Paths that a pattern may match in a stage, in `bytes` of their list */
const matchBytesMax = 256 * 1024;
/** Bytes that tell how an archive is compressed */
const magicBytes = 6;

interface Target {
  readonly destination: string;
  /** `uid:gid` */
  readonly owner: string;
  readonly mode: string;
}

/** Copies from an uploaded archive. */
export async function copyFiles(
  guest: BuildGuest,
  step: Extract<CopyStep, { readonly kind: "copy" }>,
  context: StepContext,
  archive: Readable,
): Promise<void> {
  const target = await targetOf(guest, step, context);
  const { start, all } = await startOf(archive, magicBytes);
  await unpackAndPlace(guest, { stream: all, compression: compressionOf(start), isUploaded: true }, entryOf(step.source), target);
}

/** Copies from the end of an earlier stage, whose sandbox `stage` is. */
export async function copyFromStage(
  guest: BuildGuest,
  step: Extract<CopyStep, { readonly kind: "copy-from-stage" }>,
  context: StepContext,
  stage: BuildGuest,
): Promise<void> {
  const target = await targetOf(guest, step, context);
  const pattern = posix.resolve("/", expand(step.source, context.envs));
  const matches = (await stage.output(matchScript, [pattern], matchBytesMax)).split("\0").filter((match) => match !== "");
  if (matches.length === 0) throw new ScriptFailed(`stage ${step.stage} has no ${pattern}`);
  if (matches.length > 1 && !target.destination.endsWith("/")) {
    throw new ScriptFailed(`${pattern} is ${matches.length} files: the destination must be a folder, written with a / at its end`);
  }
  for (const match of matches) {
    const path = match.slice(2);
    const isFolder = match.startsWith("d");
    const from = isFolder ? [path, "."] : [posix.dirname(path), `./${posix.basename(path)}`];
    await piped(stage, from, async (stream) =>
      unpackAndPlace(guest, { stream, compression: "", isUploaded: false }, isFolder ? "." : posix.basename(path), target),
    );
  }
}

async function targetOf(guest: BuildGuest, step: CopyStep, context: StepContext): Promise<Target> {
  const acting = await guest.account(context.user);
  const owner = step.user === undefined || step.user === "" ? acting : await guest.account(step.user);
  const path = withHome(pathIn(context, expand(step.destination, context.envs)), acting.home);
  // `COPY x .`: into the working directory, as with a `/`
  const isFolder = path.endsWith("/") || /(?:^|\/)\.{1,2}$/.test(step.destination);
  return { destination: isFolder && !path.endsWith("/") ? `${path}/` : path, owner: `${owner.uid}:${owner.gid}`, mode: step.mode ?? "" };
}

/** What of an archive a source means, relative to its root. */
export function entryOf(source: string): string {
  const parts = source.split("/");
  const pattern = parts.findIndex((part) => /[*?[\]{}]/.test(part));
  const entry = posix.normalize(posix.join("/", ...(pattern < 0 ? parts : parts.slice(0, pattern)))).replace(/\/$/, "");
  return entry === "" ? "." : entry.slice(1);
}

function compressionOf(start: Buffer): string {
  if (start.subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))) return "z";
  if (start.subarray(0, 3).toString("latin1") === "BZh") return "j";
  if (start.equals(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]))) return "J";
  return "";
}

interface Archive {
  readonly stream: Readable;
  /** Flag of tar */
  readonly compression: string;
  /** By somebody, and not packed by a stage of this build: it may hold anything */
  readonly isUploaded: boolean;
}

async function unpackAndPlace(guest: BuildGuest, archive: Archive, entry: string, target: Target): Promise<void> {
  const folder = `/.roost-copy-${randomBytes(8).toString("hex")}`;
  await guest.runScript(unpackScript, [folder, archive.compression, archive.isUploaded ? "strict" : ""], { input: archive.stream });
  await guest.runScript(placeScript, [folder, entry, target.destination, target.owner, target.mode]);
  await guest.runScript(removeScript, [folder]);
}

/** Runs `use` with what `stage` packs. Either's failure ends the other. */
async function piped(stage: BuildGuest, from: readonly string[], use: (archive: Readable) => Promise<void>): Promise<void> {
  const archive = new PassThrough();
  archive.on("error", () => undefined); // its reader's matter, who may not have begun
  const packing = stage
    .run(script(packScript, from), {
      onBytes: async (data) => {
        if (archive.destroyed) return; // nobody reads on: the reader says why
        if (!archive.write(data)) await new Promise<void>((resolve) => archive.once("drain", resolve).once("close", resolve));
      },
    })
    .then(({ exitCode, tail }) => {
      if (exitCode === 0) return void archive.end();
      throw new ScriptFailed(tail.at(-1) ?? `packing ended with exit status ${exitCode}`);
    })
    .catch((error: unknown) => {
      archive.destroy(error instanceof Error ? error : new Error(String(error)));
      throw error;
    });
  const [packed, used] = await Promise.allSettled([packing, use(archive)]);
  if (packed.status === "rejected") throw packed.reason;
  if (used.status === "rejected") throw used.reason;
}
