import { expect, test } from "vitest";

import type { VmSpec } from "../driver.ts";
import { qemuArguments } from "./command.ts";
import { chooseMachine } from "./machine.ts";

const spec: VmSpec = {
  sandboxId: "i1",
  folder: "/state/sandboxes/i1",
  vcpus: 2,
  memoryMib: 512,
  begin: { kind: "boot", kernel: "/images/kernel", initramfs: "/images/initramfs", kernelArguments: ["roost.dns=192.0.2.1"] },
  disks: {
    root: { base: "/images/base", folder: "/state/disk", layers: ["one.qcow2", "two.qcow2"], sizeMib: 1024 },
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
  return qemuArguments(changed, chooseMachine(changed.accelerator, tscKhz));
}

test("nothing is there that was not asked for", () => {
  const args = build();
  for (const option of ["-nodefaults", "-no-user-config", "-no-reboot"]) expect(args).toContain(option);
  expect(values(args, "-sandbox")).toEqual(["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
  expect(values(args, "-device")).toEqual([
    "virtio-rng-device",
    "virtio-blk-device,drive=l-two,serial=root",
    "virtio-blk-device,drive=agent,serial=agent",
    "virtio-net-device,netdev=network,mac=02:00:00:00:00:01",
  ]);
});

test("guest memory is a private, writable mapping of a file opened read-only", () => {
  expect(JSON.parse(values(build(), "-object")[0] ?? "")).toEqual({
    "qom-type": "memory-backend-file",
    id: "memory",
    size: 512 * 1024 * 1024,
    "mem-path": "/vm/memory",
    share: false,
    readonly: true,
    rom: "off",
    merge: false,
    dump: false,
  });
});

test("the chain of layers is said node by node, and nothing but the top is writable", () => {
  const nodes = values(build(), "-blockdev").map((text) => JSON.parse(text) as Record<string, unknown>);
  expect(nodes).toEqual([
    { driver: "raw", "node-name": "base", "read-only": true, file: { driver: "file", filename: "/dev/fdset/3", "read-only": true } },
    {
      driver: "qcow2",
      "node-name": "l-one",
      discard: "unmap",
      "read-only": true,
      file: { driver: "file", filename: "/vm/disk/one.qcow2", discard: "unmap", "read-only": true },
      backing: "base",
    },
    {
      driver: "qcow2",
      "node-name": "l-two",
      discard: "unmap",
      "detect-zeroes": "unmap",
      file: { driver: "file", filename: "/vm/disk/two.qcow2", discard: "unmap" },
      backing: "l-one",
    },
    { driver: "raw", "node-name": "agent", "read-only": true, file: { driver: "file", filename: "/dev/fdset/4", "read-only": true } },
  ]);
});

test("a restored VM has the devices of one that boots, and waits for its state instead of a kernel", () => {
  const restored = build({
    begin: { kind: "restore", baseFile: "/state/base", deviceState: "/state/device.state", fill: async () => undefined },
  });
  for (const option of ["-device", "-blockdev", "-object", "-machine", "-cpu", "-smp", "-netdev", "-m"]) {
    expect(values(restored, option), option).toEqual(values(build(), option));
  }
  for (const option of ["-kernel", "-initrd", "-append"]) expect(restored).not.toContain(option);
  expect([values(restored, "-incoming"), values(restored, "-global")]).toEqual([["defer"], ["migration.send-configuration=off"]]);
});

test("no argument tells where on the host anything lies", () => {
  expect(build().filter((argument) => /\/(state|images|memory)\//.test(argument))).toEqual([]);
});

test("the caller's kernel arguments come last, so they win", () => {
  expect(values(build(), "-append")[0]).toMatch(/^console=ttyS0 .* tsc_early_khz=1000 .*roost\.dns=192\.0\.2\.1$/);
});

test("KVM runs the host's CPU, and PCI machines PCI devices", () => {
  const kvm = build({ accelerator: "kvm" });
  expect([values(kvm, "-accel"), values(kvm, "-cpu")]).toEqual([["kvm"], ["host"]]);
  const args = qemuArguments(spec, chooseMachine("tcg", undefined));
  expect(values(args, "-device").at(-1)).toBe("virtio-net-pci,netdev=network,mac=02:00:00:00:00:01,romfile=");
});

test("a VM without disks and network has none", () => {
  const args = build({ disks: null, network: null });
  expect(values(args, "-device")).toEqual(["virtio-rng-device"]);
  expect([...values(args, "-blockdev"), ...values(args, "-netdev")]).toEqual([]);
});
