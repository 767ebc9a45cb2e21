import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";

import { MiB, must } from "@roost/kit";

import { digestOfFile, digestOfTree, isRecipe } from "../digest.ts";
import { moduleOrder, type WantedModule } from "../kernel/module-order.ts";
import type { BuiltPart, Part } from "../part.ts";
import { recipePath } from "../recipe-folder.ts";
import { sourceDateEpoch } from "../source-date.ts";
import { characterDeviceMode, cpioArchive, fileMode, folderMode, linkMode, type CpioEntry } from "./cpio.ts";

/** Static busybox of Debian's busybox-static. */
export const busyboxPath = "/bin/busybox";

/** What a guest needs before its disks are there; ext4 is built into the kernel. */
const wantedModules: readonly WantedModule[] = [
  { name: "virtio_mmio", bus: "mmio" },
  { name: "virtio_pci", bus: "pci" },
  { name: "virtio_blk", bus: "any" },
  { name: "virtio_net", bus: "any" },
  { name: "virtio_rng", bus: "any" },
  { name: "squashfs", bus: "any" },
];

/** Commands of `guest/initramfs-init`, for a busybox that does not find its own by itself. */
const applets = ["chmod", "chroot", "insmod", "ip", "ln", "mkdir", "mount", "poweroff", "sh", "switch_root", "usleep"];

const folders = ["agent", "bin", "dev", "lib", "lib/modules", "newroot", "proc", "sys"];

/**
 * Free space in `bytes` after the initramfs up to the next multiple of a page.
 *
 * QEMU's `microvm` machine puts the initramfs at the very top of memory, aligned down to a page, where SeaBIOS has put the ACPI tables
 * (about 1 KiB): with an unlucky length it overwrites them, and the guest finds no devices. This much stays free.
 */
const topOfMemoryBytes = 4_096 - 512;
const pageBytes = 4_096;

/** Zeros up to a length that leaves `topOfMemoryBytes` free; the kernel skips zeros between archives. */
export function padInitramfs(archive: Buffer): Buffer {
  const used = pageBytes - topOfMemoryBytes;
  const length = Math.ceil((archive.length - used) / pageBytes) * pageBytes + used;
  return Buffer.concat([archive, Buffer.alloc(length - archive.length)]);
}

/** The initramfs: busybox, the modules for the virtio devices, and `guest/initramfs-init`. Not compressed: unpacking costs more than reading. */
export function initramfsPart(cacheFolder: string, kernel: BuiltPart): Part {
  return {
    name: "initramfs",
    spaceBytes: 16 * MiB,
    inputs: async () => ({
      kernel: kernel.digest,
      recipe: await digestOfTree(recipePath("src/initramfs"), isRecipe),
      init: await digestOfFile(recipePath("guest/initramfs-init")),
      busybox: await digestOfFile(busyboxPath),
    }),
    build: async ({ outputFolder, onProgress }) => {
      onProgress("packing busybox and kernel modules");
      const release = must(kernel.version, "version of the kernel part");
      const modules = join(cacheFolder, kernel.folder, "modules", release);
      const order = moduleOrder(
        wantedModules,
        await readFile(join(modules, "modules.dep"), "utf8"),
        await readFile(join(modules, "modules.builtin"), "utf8"),
      );
      const entries: CpioEntry[] = folders.map((name) => ({ name, mode: folderMode(0o755) }));
      entries.push(
        // The kernel opens it for /init before anything is mounted.
        { name: "dev/console", mode: characterDeviceMode(0o600), device: [5, 1] },
        { name: "init", mode: fileMode(0o755), data: await readFile(recipePath("guest/initramfs-init")) },
        { name: "bin/busybox", mode: fileMode(0o755), data: await readFile(busyboxPath) },
        {
          name: "lib/modules/order",
          mode: fileMode(0o644),
          data: Buffer.from(order.map(({ path, bus }) => `${basename(path)} ${bus}\n`).join("")),
        },
      );
      for (const name of applets) entries.push({ name: `bin/${name}`, mode: linkMode, data: Buffer.from("busybox") });
      for (const { path } of order) {
        entries.push({ name: `lib/modules/${basename(path)}`, mode: fileMode(0o644), data: await readFile(join(modules, path)) });
      }
      await writeFile(join(outputFolder, "initramfs.cpio"), padInitramfs(cpioArchive(entries, sourceDateEpoch)));
      return { main: "initramfs.cpio" };
    },
  };
}
