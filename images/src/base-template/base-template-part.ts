import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { GiB, MiB, run } from "@roost/kit";

import { containedRun } from "../contained-run.ts";
import { digestOfFile, digestOfTree, isRecipe } from "../digest.ts";
import { downloadNpmPackage, type NpmPackage } from "../node/npm-package.ts";
import type { Part } from "../part.ts";
import { recipePath } from "../recipe-folder.ts";
import { sourceDateEpoch } from "../source-date.ts";
import { makeExt4Image } from "./ext4-image.ts";
import { readCodename, readDebianSources } from "./read-apt-sources.ts";

/** Size of the disk a guest of this template sees in `MiB`; the file is sparse and holds about 350 MiB. */
export const baseTemplateDiskMib = (10 * GiB) / MiB;

/** What `base` has beyond a minimal Debian. */
const packages = [
  "bash",
  "ca-certificates",
  "curl",
  "git",
  "iproute2",
  "iputils-ping",
  "less",
  "ncurses-bin",
  "nodejs",
  "openssh-client",
  "procps",
  "python-is-python3",
  "python3",
  "python3-pip",
  "python3-venv",
  "sudo",
  "unzip",
  "util-linux",
  "vim-tiny",
  "xz-utils",
  "zip",
];

/** npm for Debian's Node.js. */
const npmPackage: NpmPackage = {
  name: "npm",
  version: "10.9.9",
  integrity: "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg==",
};

/** Documentation and translations stay out: a third of the size, and nothing in a sandbox reads them. */
const leaveOut = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*"];
const keep = ["/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias"];

/** How this machine's apt fetches things; the template is made with the same. */
const inheritedAptOptions = /^Acquire::(http|https|Check-Valid-Until|Check-Date)\b/;

/** Steps that mmdebstrap announces, for a progress bar; the rest of its output is about single packages. */
const milestones: readonly (readonly [RegExp, string, number])[] = [
  [/running apt-get update/, "reading package lists", 0.05],
  [/downloading packages with apt/, "downloading the essential packages", 0.1],
  [/extracting archives/, "unpacking the essential packages", 0.2],
  [/installing essential packages/, "installing the essential packages", 0.25],
  [/installing remaining packages/, "downloading and installing packages", 0.4],
  [/running --customize-hook/, "adding the user and npm", 0.85],
];

/** The template `base`: Debian with the tools agents expect, made from this machine's own package sources. */
export const baseTemplatePart: Part = {
  name: "base",
  spaceBytes: 1_300 * MiB,
  inputs: async () => ({
    codename: await readCodename(),
    recipe: await digestOfTree(recipePath("src/base-template"), isRecipe),
    customize: await digestOfFile(recipePath("base/customize")),
    packages,
    npmPackage,
  }),
  build: async ({ outputFolder, scratchFolder, signal, onProgress }) => {
    const codename = await readCodename();
    const sources = join(scratchFolder, "debian.list");
    await writeFile(sources, await readDebianSources("/etc/apt", codename));
    onProgress(`downloading npm ${npmPackage.version}`);
    const npmTarball = await downloadNpmPackage(npmPackage, scratchFolder, signal);

    const root = join(scratchFolder, "root");
    const tarball = join(scratchFolder, "root.tar");
    await mkdir(root);
    onProgress(`installing Debian ${codename}`, 0.02);
    let done = 0;
    await containedRun(
      [
        "env",
        `SOURCE_DATE_EPOCH=${sourceDateEpoch}`,
        `TMPDIR=${scratchFolder}`,
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=tar", // not a folder: only an archive gets its times from SOURCE_DATE_EPOCH
        `--include=${packages.join(",")}`,
        ...(await aptOptions(signal)).map((option) => `--aptopt=${option}`),
        "--dpkgopt=force-unsafe-io", // a crash means a new build, not a repaired one
        ...leaveOut.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
        ...keep.map((pattern) => `--dpkgopt=path-include=${pattern}`),
        `--customize-hook=${quote(recipePath("base/customize"))} "$1" ${quote(npmTarball)}`,
        codename,
        tarball,
        sources,
      ],
      {
        signal,
        onOutput: (chunk) => {
          for (const [pattern, message, fraction] of milestones) {
            if (fraction <= done || !pattern.test(chunk)) continue;
            done = fraction;
            onProgress(message, fraction);
          }
        },
      },
    );

    onProgress("writing the disk", 0.9);
    // Devices are the guest kernel's business, and /run and the like are mounted over.
    await run(["tar", "-xpf", tarball, "-C", root, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--exclude=./dev/*"], {
      timeoutMs: 10 * 60_000,
      signal,
    });
    await makeExt4Image(root, join(outputFolder, "root.ext4"), baseTemplateDiskMib, scratchFolder, signal);
    onProgress("checking the disk's content", 0.95);
    return { main: "root.ext4", version: codename, isSparse: true };
  },
};

/** Without recommended packages; the rest as this machine does it (proxies, mirrors with old release files). */
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
