import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { CommandError, run } from "@roost/kit";

import { readCodename, readDebianSources } from "./base-template/read-apt-sources.ts";
import { containedRun } from "./contained-run.ts";
import { ImageBuildError } from "./image-build-error.ts";
import { recipePath } from "./recipe-folder.ts";
import { sourceDateEpoch } from "./source-date.ts";

/** Changes when the same packages are to give other files. */
export const debianRecipeVersion = 1;

export interface DebianArchiveOptions {
  readonly suite: string;
  readonly packages: readonly string[];
  /** Folder to work in, on a disk with room; the archive is made in it */
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
  readonly onProgress: (message: string) => void;
}

export interface DebianArchive {
  /** An uncompressed tar */
  readonly path: string;
  /** `name=version` of every package in it, sorted */
  readonly versions: readonly string[];
}

/** What every one has beside minimal Debian: a user of its own who may become root, and certificates to fetch more with. */
const packagesAlways = ["ca-certificates", "passwd", "sudo"];

/** Documentation and translations stay out, as in `base`. */
const dpkgOptions = [
  "force-unsafe-io", // a crash means a new import, not a repaired one
  ...["man", "doc", "info", "locale"].map((folder) => `path-exclude=/usr/share/${folder}/*`),
  "path-include=/usr/share/doc/*/copyright",
  "path-include=/usr/share/locale/locale.alias",
];

/** How this machine's apt fetches things. */
const inheritedAptOptions = /^Acquire::(http|https|Check-Valid-Until|Check-Date)\b/;

const milestones: readonly (readonly [RegExp, string])[] = [
  [/running apt-get update/, "reading package lists"],
  [/downloading packages with apt/, "downloading the essential packages"],
  [/installing essential packages/, "installing the essential packages"],
  [/installing remaining packages/, "downloading and installing packages"],
  [/running --customize-hook/, "adding the user"],
];

/** Makes a Debian root file system of a suite and packages, from this machine's own package sources. Rejects with an `ImageBuildError` that says what to do. */
export async function makeDebianArchive(options: DebianArchiveOptions): Promise<DebianArchive> {
  const { suite, folder, signal } = options;
  const sources = join(folder, "debian.list");
  await writeFile(sources, await sourcesOf(suite));
  const path = join(folder, "root.tar");
  const versionsFile = join(folder, "versions");
  const said = new Set<string>();
  await containedRun(
    [
      "env",
      `SOURCE_DATE_EPOCH=${sourceDateEpoch}`,
      `TMPDIR=${folder}`,
      "mmdebstrap",
      "--mode=root",
      "--variant=minbase",
      "--format=tar",
      `--include=${[...new Set([...packagesAlways, ...options.packages])].join(",")}`,
      ...(await aptOptions(signal)).map((option) => `--aptopt=${option}`),
      ...dpkgOptions.map((option) => `--dpkgopt=${option}`),
      `--customize-hook=${quote(recipePath("debian/customize"))} "$1" ${quote(versionsFile)}`,
      suite,
      path,
      sources,
    ],
    {
      signal,
      timeoutMs: options.timeoutMs,
      onOutput: (chunk) => {
        for (const [pattern, message] of milestones) {
          if (said.has(message) || !pattern.test(chunk)) continue;
          said.add(message);
          options.onProgress(message);
        }
      },
    },
  ).catch((error: unknown) => {
    const unknown = /Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate/.exec(
      error instanceof CommandError ? error.stderr : "",
    );
    if (unknown === null) throw error;
    throw new ImageBuildError(`Debian ${suite} has no package '${unknown[1] ?? unknown[2] ?? ""}'; look for it at packages.debian.org`, {
      cause: error,
    });
  });
  const versions = (await readFile(versionsFile, "utf8")).split("\n").filter(Boolean).sort();
  return { path, versions };
}

/** This machine's sources of a suite, or those of its own release with the suite in its place: mirrors have them all. */
async function sourcesOf(suite: string): Promise<string> {
  const own = await readCodename();
  const sources = await readDebianSources("/etc/apt", own);
  if (suite === own) return sources;
  return sources
    .split("\n")
    .filter((line) => line !== "" && (/ (\S+-updates|\S+-security|\S+\/updates) main$/.test(line) ? !rolling.has(suite) : true))
    .map((line) => `${line.replace(new RegExp(` ${own}(-updates|-security|/updates)? main$`), ` ${suite}$1 main`)}\n`)
    .join("");
}

/** Suites without updates beside them */
const rolling = new Set(["sid", "unstable", "experimental"]);

async function aptOptions(signal: AbortSignal): Promise<readonly string[]> {
  const dump = await run(["apt-config", "dump"], { signal });
  const inherited = dump
    .split("\n")
    .map((line) => line.replace(/;\s*$/, ""))
    .filter((line) => inheritedAptOptions.test(line) && !line.includes('""'));
  return ['APT::Install-Recommends "false"', 'Acquire::Languages "none"', ...inherited];
}

function quote(path: string): string {
  return `'${path.replaceAll("'", "'\\''")}'`;
}
