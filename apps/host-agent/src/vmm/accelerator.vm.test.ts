import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { chooseAccelerator } from "./accelerator.ts";
import { probeGuestWords, probeInitramfs } from "./probe-guest.ts";
import { createQemuHarness } from "./testing/qemu-harness.ts";
import { describeOnGuests } from "./testing/test-guest.ts";

describeOnGuests("the accelerator of this machine", (guest) => {
  test("is one that guests boot with, whatever /dev/kvm looks like, and the probe leaves nothing", async () => {
    const harness = await createQemuHarness(guest);
    const stateDir = join(harness.folder, "state");
    await mkdir(stateDir);
    const driver = harness.createDriver();
    const spec = await harness.createSpec();
    try {
      const kernel = { path: guest.kernel, digest: "sha256:test" };
      const choice = await chooseAccelerator({ setting: "auto", driver, kernel, stateDir, uid: spec.uid, gid: spec.gid });
      expect(choice.reason).toMatch(choice.accelerator === "kvm" ? /booted in \d+ ms/ : /so guests are emulated$/);
      expect((await readdir(stateDir)).filter((name) => name.startsWith("probe-"))).toEqual([]);
      expect(await harness.leftovers()).toEqual([]);

      const vm = await driver.start({ ...spec, accelerator: choice.accelerator });
      await poll({ what: "the guest's first words", timeoutMs: 60_000 }, async () =>
        (await vm.consoleTail(20)).some((line) => line.includes("guest is up")) ? true : undefined,
      );
      expect(await vm.kill()).toMatchObject({ signal: "SIGKILL" });
      expect(await harness.leftovers()).toEqual([]);
    } finally {
      await harness.close();
    }
  });

  test("can always be emulation: the probe's guest itself boots and powers off", async () => {
    const harness = await createQemuHarness(guest);
    try {
      const initramfs = join(harness.folder, "probe.cpio");
      await writeFile(initramfs, probeInitramfs());
      const spec = await harness.createSpec();
      const vm = await harness
        .createDriver()
        .start({ ...spec, begin: { kind: "boot", kernel: guest.kernel, initramfs, kernelArguments: [] } });
      const exit = await vm.exited;
      expect(exit).toMatchObject({ exitCode: 0, signal: null });
      expect(exit.consoleTail).toContain(probeGuestWords);
      expect(await harness.leftovers()).toEqual([]);
    } finally {
      await harness.close();
    }
  });
});
