import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { withDeadline, run } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { readImages } from "./ensure-images.ts";
import { imagesFolder, imagesOptions } from "./options.ts";
import { digestOfSparseFile } from "./sparse-digest.ts";

/** Longest a boot may take in `ms`, under software emulation on a machine that is busy with other things. */
const bootTimeoutMs = 100_000;

const folder = imagesFolder(imagesOptions.read(process.env).cacheDir);
const images = await readImages(folder).catch(() => undefined);

let scratch: string;
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-boot-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

const image = (path: string) => join(folder, path);

/** Boots on the machine type that needs nothing from the host and returns the console up to a line with `expected`, or all of it. */
async function boot(disks: readonly string[], expected?: string): Promise<string> {
  if (images === undefined) throw new Error("no images");
  const drives = disks.flatMap((disk, index) => ["-drive", `${disk},if=none,id=d${index}`, "-device", `virtio-blk-pci,drive=d${index}`]);
  const vmm = spawn(
    "qemu-system-x86_64",
    ["-accel", "tcg", "-M", "q35,hpet=off", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
      .concat(["-serial", "stdio", "-kernel", image(images.kernel.path), "-initrd", image(images.initramfs.path)])
      .concat(["-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable roost.dns=192.0.2.1,192.0.2.2"])
      .concat(drives, ["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"]),
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let console = "";
  const ended = new Promise<void>((resolve) => void vmm.on("close", () => resolve()));
  const seen = new Promise<void>((resolve) => {
    vmm.stdout.on("data", (chunk: Buffer) => {
      console += chunk.toString("latin1");
      if (expected !== undefined && console.includes(expected)) resolve();
    });
  });
  try {
    await withDeadline("boot", bootTimeoutMs, Promise.race([seen, ended])).catch((error: unknown) => {
      throw new Error(`the console says:\n${console}`, { cause: error });
    });
    return console;
  } finally {
    vmm.kill("SIGKILL");
    await ended;
  }
}

const emptyDisk = async () => {
  const disk = join(scratch, "empty.ext4");
  await run(["mke2fs", "-q", "-t", "ext4", disk, "64M"]);
  return disk;
};
const raw = (path: string) => `file=${path},format=raw`;
const agentDisk = () => `${raw(image(images?.agentDisk.path ?? ""))},readonly=on`;

describe.skipIf(images === undefined)(`images (skipped without images in ${folder}: npm run images)`, () => {
  test("a root disk without any file gets a guest agent", async () => {
    const disk = await emptyDisk();
    const console = await boot([raw(disk), agentDisk()], '"port":49983');
    expect(console).toContain("roost: starting the guest agent");
    expect(console).not.toContain("could not be prepared");
  });

  test("the base template boots from an overlay, and its image stays as it is", async () => {
    const base = image(images?.templates["base"]?.path ?? "");
    const overlay = join(scratch, "overlay.qcow2");
    await run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay]);
    const console = await boot([`file=${overlay},format=qcow2`, agentDisk()], '"port":49983');
    expect(console).toContain("roost: starting the guest agent");
    expect(console).not.toContain("could not be prepared");
    expect(await digestOfSparseFile(base)).toBe(images?.templates["base"]?.digest);
  });

  test("a VM without an agent disk says so and ends by itself", async () => {
    const console = await boot([raw(await emptyDisk())]);
    expect(console.trimEnd().split("\n").slice(-3).join("\n")).toContain(
      "roost: init failed: root disk (vda) or agent disk (vdb) did not appear",
    );
  });

  test("a root disk with another file system says so and ends by itself", async () => {
    const disk = join(scratch, "zeros");
    await run(["truncate", "--size", "64M", disk]);
    const console = await boot([raw(disk), agentDisk()]);
    expect(console).toContain("roost: init failed: cannot mount the root disk");
  });
});
