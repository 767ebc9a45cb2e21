import { mkdir, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { imageSetFileName, imageSetSchema, type ImageSet } from "@roost/contract";
import { run } from "@roost/kit";
import { describe } from "vitest";

import { pageBytes } from "../driver.ts";

/** Support for tests: the initramfs of the images, with an init of our own that does what a test wants. */

const cacheFolder = process.env["ROOST_CACHE_DIR"] ?? "/var/cache/roost";

/** What VM tests boot, with absolute paths; a string says why there is nothing to boot. */
async function findTestImages(): Promise<ImageSet | string> {
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

export interface TestGuest {
  readonly kernel: string;
  readonly initramfs: string;
}

const images = await findTestImages();
const guest = typeof images === "string" ? { kernel: "", initramfs: "" } : { kernel: images.kernel.path, initramfs: images.initramfs.path };

/** A suite of tests that boot guests; skipped where there is nothing to boot, and its name says why. */
export function describeOnGuests(name: string, suite: (guest: TestGuest) => void): void {
  describe.skipIf(typeof images === "string")(`${name}${typeof images === "string" ? ` (${images})` : ""}`, () => {
    suite(guest);
  });
}

/**
 * PID 1 of the test guest. `test=` on the kernel command line says what it does once it is up:
 * nothing (default), `poweroff`, `reboot`, `panic`, `flood` (prints for ever), `write-disks` (tries to, and powers off),
 * `fill-disk`: fills its disk and says so.
 * `count`: counts for ever, prints each number with the one it last wrote to its disk, writes it there, and keeps random data in memory whose checksum it
 * compares each time; a third of it is replaced each time. `count-hostile` does the same until its agent disk begins with "scribble": then it
 * writes at random into the registers of its devices, with its disk busy, as a kernel can that means harm.
 */
const init = `#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox mount -t sysfs sys /sys
load_modules() {
  while read -r module bus; do
    case "$bus" in mmio | any) busybox insmod "/lib/modules/$module" ;; esac
  done </lib/modules/order
}
# Registers of virtio over MMIO: of a device's window the first 256 bytes; then the firmware's port with its DMA.
scribble() {
  echo "scribbling"
  while true; do dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=notrunc; done 2>/dev/null &
  windows=$(grep -o '^ *feb[0-9a-f]*' /proc/iomem | tr -d ' ')
  [ -n "$windows" ] || windows="feb00000 feb00200 feb02a00 feb02c00 feb02e00"
  round=0
  while [ $round -lt 25 ]; do
    round=$((round + 1))
    for window in $windows; do
      register=$(((RANDOM % 64) * 4))
      case $((RANDOM % 4)) in
        0) value=$((RANDOM % 16)) ;;
        1) value=4294967295 ;;
        2) value=$(((RANDOM * 32768 + RANDOM) & 0xbffffff)) ;;
        *) value=$(((RANDOM << 17) ^ (RANDOM << 2) ^ RANDOM)) ;;
      esac
      devmem $((0x$window + register)) 32 $((value & 0xffffffff)) && written=$((written + 1))
    done 2>/dev/null
    head -c 8 /dev/urandom | dd of=/dev/port bs=1 seek=1296 conv=notrunc 2>/dev/null
  done
  echo "scribbled $written registers"
  while true; do sleep 1000; done
}
echo "test guest is up, $(busybox uname -r), $(busybox nproc) CPUs, $(busybox grep MemTotal /proc/meminfo)"
case "$(busybox cat /proc/cmdline)" in
  *test=poweroff*) echo "powering off"; busybox poweroff -f ;;
  *test=reboot*) echo "rebooting"; busybox reboot -f ;;
  *test=panic*) echo "panicking"; echo c >/proc/sysrq-trigger ;;
  *test=write-disks*)
    load_modules
    for disk in vda vdb; do
      result=refused
      busybox blockdev --setrw /dev/$disk
      echo "roost was here" | busybox dd of=/dev/$disk conv=notrunc,fsync && result=written
      echo "$disk: $(busybox cat /sys/block/$disk/size) sectors, read-only $(busybox cat /sys/block/$disk/ro), $result"
    done
    busybox poweroff -f ;;
  *test=fill-disk*)
    load_modules
    until [ -b /dev/vda ]; do busybox usleep 1000; done
    busybox dd if=/dev/urandom of=/dev/vda bs=64k count=96 oflag=direct && echo "filled the disk" ;;
  *test=count*)
    busybox --install -s /bin
    load_modules
    until [ -b /dev/vda ]; do usleep 1000; done
    number=0
    mkdir /blobs
    while true; do
      number=$((number + 1))
      on_disk=$(dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | cut -c 1-16)
      memory=ok
      [ "$number" -eq 1 ] || md5sum -c -s /blobs/sums || memory=damaged
      echo "count $number disk \${on_disk%% *} memory $memory"
      printf '%-511d\\n' "$number" | dd of=/dev/vda bs=512 oflag=direct conv=notrunc 2>/dev/null
      head -c 300000 /dev/urandom >/blobs/$((number % 3))
      md5sum /blobs/[0-9] >/blobs/sums
      case "$(cat /proc/cmdline)" in
        *count-hostile*) [ "$(dd if=/dev/vdb bs=512 count=1 iflag=direct 2>/dev/null | head -c 8)" != scribble ] || scribble ;;
      esac
    done ;;
  *test=flood*) busybox yes "the quick brown fox jumps over the lazy dog" ;;
esac
while true; do busybox sleep 1000; done
`;

/** Where in its last page an initramfs ends, in `bytes`. */
const initramfsPageOffset = 512;

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
  // As the images' own is: else QEMU's microvm loads its end over the ACPI tables, and the guest hangs before its first word
  await truncate(path, Math.ceil(((await stat(path)).size - initramfsPageOffset) / pageBytes) * pageBytes + initramfsPageOffset);
  return path; // the kernel unpacks one archive after the other: the last /init counts
}
