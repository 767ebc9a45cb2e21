import { chmod, copyFile, cp, mkdir, readFile, stat, symlink } from "node:fs/promises";
import { join } from "node:path";

import { MiB, must, run } from "@roost/kit";
import { z } from "zod";

import { stepTimeoutMs } from "../contained-run.ts";
import { digestOf, digestOfFile, digestOfTree, isRecipe } from "../digest.ts";
import { ImageBuildError } from "../image-build-error.ts";
import { busyboxPath } from "../initramfs/initramfs-part.ts";
import type { BuiltPart, Part } from "../part.ts";
import { recipePath } from "../recipe-folder.ts";
import { sourceDateEpoch } from "../source-date.ts";

const libraryFolder = "/lib/x86_64-linux-gnu";
/** The loader and libraries that Node.js and the agent's native modules are linked against, so that no root file system needs them. */
const libraries = [
  "ld-linux-x86-64.so.2",
  "libc.so.6",
  "libdl.so.2",
  "libgcc_s.so.1",
  "libm.so.6",
  "libpthread.so.0",
  "libresolv.so.2",
  "librt.so.1",
  "libstdc++.so.6",
];

/** OpenSSH's SFTP server, so that `roost ssh` needs none in a template; it is linked against libc alone. */
const sftpServerPath = "/usr/lib/openssh/sftp-server";

/** Scripts of `guest/` and where they go. */
const scripts = { supervisor: "supervisor", "prepare-root": "prepare-root", poweroff: "bin/poweroff", "sftp-server": "bin/sftp-server" };

/**
 * lz4, by boot time under software emulation and not by size: Node's first start took 2.05 s from it, 2.15 s uncompressed,
 * 2.6 s with gzip and 2.8 s with zstd.
 */
const compression = ["-comp", "lz4", "-b", "128K"];

export interface AgentDiskInputs {
  readonly cacheFolder: string;
  readonly kernel: BuiltPart;
  readonly node: BuiltPart;
  /** The guest agent as its build leaves it; all of it becomes `/agent`. */
  readonly agentFolder: string;
  readonly agentPackageFile: string;
}

/**
 * The read-only disk every guest mounts at `/run/roost/agent`:
 *
 *     bin/{node,busybox,modprobe,poweroff,sftp-server}   lib/ (loader and libraries of node; sftp-server itself)
 *     agent/agent.mjs and what it needs           modules/<release>/
 *     supervisor, prepare-root                    (guest/ in this package)
 */
export function agentDiskPart(inputs: AgentDiskInputs): Part {
  const { cacheFolder, kernel, node, agentFolder, agentPackageFile } = inputs;
  return {
    name: "agent-disk",
    spaceBytes: 200 * MiB,
    inputs: async () => ({
      kernel: kernel.digest,
      node: node.digest,
      recipe: await digestOfTree(recipePath("src/agent-disk"), isRecipe),
      scripts: await Promise.all(Object.keys(scripts).map((name) => digestOfFile(recipePath("guest", name)))),
      agent: await digestOfAgent(agentFolder),
      version: await agentVersion(agentPackageFile, agentFolder),
      programs: await Promise.all(
        [busyboxPath, sftpServerPath, ...libraries.map((name) => join(libraryFolder, name))].map((path) => digestOfFile(path)),
      ),
    }),
    build: async ({ outputFolder, scratchFolder, signal, onProgress }) => {
      onProgress("collecting the guest agent, Node.js and tools");
      const tree = join(scratchFolder, "tree");
      for (const folder of ["bin", "lib", "modules"]) await mkdir(join(tree, folder), { recursive: true });
      // Hard links: the two big ones are already in the cache.
      await run(["cp", "-al", join(cacheFolder, node.path), join(tree, "bin/node")], { signal });
      const release = must(kernel.version, "version of the kernel part");
      await run(["cp", "-al", join(cacheFolder, kernel.folder, "modules", release), join(tree, "modules", release)], { signal });
      await copyProgram(busyboxPath, join(tree, "bin/busybox"));
      await symlink("busybox", join(tree, "bin/modprobe"));
      await copyProgram(sftpServerPath, join(tree, "lib/sftp-server"));
      for (const name of libraries) await copyProgram(join(libraryFolder, name), join(tree, "lib", name));
      for (const [name, target] of Object.entries(scripts)) await copyProgram(recipePath("guest", name), join(tree, target));
      await cp(agentFolder, join(tree, "agent"), { recursive: true });

      onProgress("writing the file system");
      const time = String(sourceDateEpoch);
      const reproducible = ["-mkfs-time", time, "-all-time", time, "-all-root", "-no-xattrs"];
      await run(
        ["mksquashfs", tree, join(outputFolder, "agent.squashfs"), "-noappend", "-quiet", "-no-progress", ...compression, ...reproducible],
        { timeoutMs: stepTimeoutMs, signal },
      );
      return { main: "agent.squashfs", version: await agentVersion(agentPackageFile, agentFolder) };
    },
  };
}

async function copyProgram(from: string, to: string): Promise<void> {
  await copyFile(from, to);
  await chmod(to, 0o755);
}

async function digestOfAgent(agentFolder: string): Promise<string> {
  const built = await stat(join(agentFolder, "agent.mjs")).catch(() => undefined);
  if (built === undefined)
    throw new ImageBuildError(`the guest agent is not built (${agentFolder} has no agent.mjs); run \`npm run build\``);
  return digestOfTree(agentFolder);
}

/** The package's version and what tells two builds of it apart: `0.1.0+3f2a9c01d4e5`. */
async function agentVersion(packageFile: string, agentFolder: string): Promise<string> {
  const { version } = z.object({ version: z.string() }).parse(JSON.parse(await readFile(packageFile, "utf8")));
  const digest = digestOf(await digestOfAgent(agentFolder));
  return `${version}+${digest.slice("sha256:".length, "sha256:".length + 12)}`;
}
