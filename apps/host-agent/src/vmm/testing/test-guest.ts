import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { imageSetFileName, imageSetSchema, type ImageSet } from "@roost/contract";
import { run } from "@roost/kit";

/** Support for tests: the initramfs of the images, with an init of our own that does what a test wants. */

const cacheFolder = process.env["ROOST_CACHE_DIR"] ?? "/var/cache/roost";

/** What VM tests boot, with absolute paths; a string says why there is nothing to boot. */
export async function findTestImages(): Promise<ImageSet | string> {
  const folder = join(cacheFolder, "images");
  const path = join(folder, imageSetFileName);
  try {
    const images = imageSetSchema.parse(JSON.parse(await readFile(path, "utf8")));
    const absolute = <T extends { path: string }>(file: T): T => ({ ...file, path: join(folder, file.path) });
    return { ...images, kernel: absolute(images.kernel), initramfs: absolute(images.initramfs), agentDisk: absolute(images.agentDisk) };
  } catch (error) {
    return `no images to boot (${path}: ${error instanceof Error ? error.message.slice(0, 120) : String(error)}); make them with: npm run images`;
  }
}

/**
 * PID 1 of the test guest. `test=` on the kernel command line says what it does once it is up:
 * nothing (default), `poweroff`, `reboot`, `panic`, `flood` (prints for ever), `write-disks` (tries to, and powers off).
 */
const init = `#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox mount -t sysfs sys /sys
echo "test guest is up, $(busybox uname -r), $(busybox nproc) CPUs, $(busybox grep MemTotal /proc/meminfo)"
case "$(busybox cat /proc/cmdline)" in
  *test=poweroff*) echo "powering off"; busybox poweroff -f ;;
  *test=reboot*) echo "rebooting"; busybox reboot -f ;;
  *test=panic*) echo "panicking"; echo c >/proc/sysrq-trigger ;;
  *test=write-disks*)
    while read -r module bus; do
      case "$bus" in mmio | any) busybox insmod "/lib/modules/$module" ;; esac
    done </lib/modules/order
    for disk in vda vdb; do
      result=refused
      busybox blockdev --setrw /dev/$disk
      echo "roost was here" | busybox dd of=/dev/$disk conv=notrunc,fsync && result=written
      echo "$disk: $(busybox cat /sys/block/$disk/size) sectors, read-only $(busybox cat /sys/block/$disk/ro), $result"
    done
    busybox poweroff -f ;;
  *test=flood*) busybox yes "the quick brown fox jumps over the lazy dog" ;;
esac
while true; do busybox sleep 1000; done
`;

/** Makes the initramfs of the test guest in `folder`, on top of the images' one, and returns its path. */
export async function makeTestInitramfs(folder: string, imagesInitramfs: string): Promise<string> {
  const root = join(folder, "initramfs");
  await mkdir(root);
  await writeFile(join(root, "init"), init, { mode: 0o755 });
  const path = join(folder, "initramfs.cpio");
  await run([
    "/usr/bin/busybox",
    "sh",
    "-c",
    `cd "$1" && { cat "$2"; find . | cpio -o -H newc; } >"$3"`,
    "cpio",
    root,
    imagesInitramfs,
    path,
  ]);
  return path; // the kernel unpacks one archive after the other: the last /init counts
}
