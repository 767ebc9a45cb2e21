import { expect, test } from "vitest";

import type { VmSpec } from "../driver.ts";
import { qemuArguments } from "./command.ts";
import { vmLayout } from "./layout.ts";
import { chooseMachine } from "./machine.ts";

const spec: VmSpec = {
  sandboxId: "i1",
  folder: "/state/sandboxes/i1",
  vcpus: 2,
  memoryMib: 512,
  kernel: "/images/kernel",
  initramfs: "/images/initramfs",
  kernelArguments: ["roost.dns=192.0.2.1"],
  disks: {
    rootOverlay: { path: "/state/a,b.qcow2", backingFiles: ["/images/base"], sizeMib: 1024 },
    agentDisk: "/images/agent",
  },
  network: { namespacePath: "/run/netns/x", tapName: "tap0", macAddress: "02:00:00:00:00:01" },
  uid: 1000,
  gid: 1000,
  accelerator: "tcg",
};

function values(args: readonly string[], option: string): string[] {
  return args.flatMap((argument, index) => (argument === option ? [args[index + 1] ?? ""] : []));
}

function build(changes: Partial<VmSpec> = {}, tscKhz: number | undefined = 1_000) {
  const changed = { ...spec, ...changes };
  return qemuArguments(changed, vmLayout(changed.folder), chooseMachine(changed.accelerator, tscKhz), "/memory/zero");
}

test("nothing is there that was not asked for", () => {
  const args = build();
  for (const option of ["-nodefaults", "-no-user-config", "-no-reboot"]) expect(args).toContain(option);
  expect(values(args, "-sandbox")).toEqual(["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
  expect(values(args, "-device")).toEqual([
    "virtio-rng-device",
    "virtio-blk-device,drive=root,serial=root",
    "virtio-blk-device,drive=agent,serial=agent",
    "virtio-net-device,netdev=network,mac=02:00:00:00:00:01",
  ]);
});

test("guest memory is a private, writable mapping of a file opened read-only", () => {
  expect(JSON.parse(values(build(), "-object")[0] ?? "")).toEqual({
    "qom-type": "memory-backend-file",
    id: "memory",
    size: 512 * 1024 * 1024,
    "mem-path": "/memory/zero",
    share: false,
    readonly: true,
    rom: "off",
    merge: false,
    dump: false,
  });
});

test("a comma in a path is a comma, and the agent disk is read-only", () => {
  const [root, agent] = values(build(), "-blockdev").map((text) => JSON.parse(text) as { file: Record<string, unknown> });
  expect(root?.file["filename"]).toBe("/state/a,b.qcow2");
  expect(agent).toMatchObject({ "read-only": true, file: { filename: "/images/agent", "read-only": true } });
});

test("the caller's kernel arguments come last, so they win", () => {
  expect(values(build(), "-append")[0]).toMatch(/^console=ttyS0 .* tsc_early_khz=1000 .*roost\.dns=192\.0\.2\.1$/);
});

test("KVM runs the host's CPU, and PCI machines PCI devices", () => {
  const kvm = build({ accelerator: "kvm" });
  expect([values(kvm, "-accel"), values(kvm, "-cpu")]).toEqual([["kvm"], ["host"]]);
  const args = qemuArguments(spec, vmLayout(spec.folder), chooseMachine("tcg", undefined), "/memory/zero");
  expect(values(args, "-device").at(-1)).toBe("virtio-net-pci,netdev=network,mac=02:00:00:00:00:01,romfile=");
});

test("a VM without disks and network has none", () => {
  const args = build({ disks: null, network: null });
  expect(values(args, "-device")).toEqual(["virtio-rng-device"]);
  expect([...values(args, "-blockdev"), ...values(args, "-netdev")]).toEqual([]);
});
