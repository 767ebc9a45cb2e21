import { cp, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { MiB, run } from "@roost/kit";

import { digestOfTree, isRecipe } from "../digest.ts";
import type { Part } from "../part.ts";
import { recipePath } from "../recipe-folder.ts";
import { resolveMetaPackage, unpackDebianPackage } from "./debian-package.ts";
import { extractVmlinux, unpackModule } from "./unpack.ts";

/** Debian's kernel for virtual machines: no drivers for real hardware, so it boots fast and is small. */
const metaPackage = "linux-image-cloud-amd64";

/**
 * The kernel and its modules:
 *
 *     vmlinux             uncompressed, booted through its PVH entry
 *     modules/<release>/  all modules, uncompressed, with modules.dep
 */
export const kernelPart: Part = {
  name: "kernel",
  spaceBytes: 320 * MiB,
  inputs: async () => ({ package: metaPackage, recipe: await digestOfTree(recipePath("src/kernel"), isRecipe) }),
  build: async ({ outputFolder, scratchFolder, signal, refresh, onProgress }) => {
    onProgress("asking apt for the newest kernel");
    const packageName = await resolveMetaPackage(metaPackage, /^linux-image-\d/, { refresh, signal });
    const release = packageName.slice("linux-image-".length);
    onProgress(`downloading ${packageName}`);
    const unpacked = join(scratchFolder, "package");
    await unpackDebianPackage(packageName, scratchFolder, unpacked, signal);

    onProgress("unpacking the kernel");
    await extractVmlinux(join(unpacked, `boot/vmlinuz-${release}`), join(outputFolder, "vmlinux"), signal);

    const modules = join(outputFolder, "modules", release);
    await mkdir(join(outputFolder, "modules"));
    const packaged = [join(unpacked, "lib/modules", release), join(unpacked, "usr/lib/modules", release)];
    await cp(await firstFolder(packaged), modules, { recursive: true, verbatimSymlinks: true });
    for (const link of ["build", "source"]) await rm(join(modules, link), { force: true });
    for (const entry of await readdir(modules, { recursive: true })) await unpackModule(join(modules, entry), signal);
    // depmod(8) wants the layout of a root file system.
    const root = join(scratchFolder, "root");
    await mkdir(join(root, "lib"), { recursive: true });
    await run(["ln", "-s", join(outputFolder, "modules"), join(root, "lib/modules")]);
    await run(["depmod", "--basedir", root, release], { signal });
    return { main: "vmlinux", version: release };
  },
};

async function firstFolder(candidates: readonly string[]): Promise<string> {
  for (const candidate of candidates) {
    const found = await readdir(candidate).catch(() => undefined);
    if (found !== undefined) return candidate;
  }
  throw new Error(`the kernel package has none of ${candidates.join(", ")}`);
}
