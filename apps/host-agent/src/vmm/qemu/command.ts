import type { Accelerator, VmSpec } from "../driver.ts";
import { agentDescriptor, agentNode, baseDescriptor, diskNodes, layerNode } from "./block-nodes.ts";
import { insidePaths } from "./layout.ts";
import type { Machine } from "./machine.ts";

export const qemuProgram = "/usr/bin/qemu-system-x86_64";

/** Translated code QEMU keeps at most in `MiB` under TCG; grows as the guest runs new code, and is dropped when full. */
export const translationBufferMib = 256;

/**
 * Everything TCG can emulate but what it is slow at: string instructions as the kernel's way to copy memory, and five
 * levels of page tables. A tenth less CPU time for a boot. (`erms=off` needs `fsrm=off`: with one of them the guest hangs.)
 */
const emulatedCpu = "max,erms=off,fsrm=off,la57=off";

/**
 * QEMU's arguments for a VM.
 *
 * Guest memory is a private mapping of an immutable file that the VMM cannot write: for a cold boot one of zeros, shared by all VMs of that size;
 * for a restore its image's base file. Either way what the guest changed is what the kernel copied on write. There is no balloon: on
 * a private mapping it would punch holes into the file. And no merging of equal pages: it would let one guest find out by timing what is in
 * another's memory.
 *
 * A VM that boots and one that is restored have the same devices in the same order: device state is found by their names and places.
 */
export function qemuArguments(spec: VmSpec, machine: Machine): string[] {
  const bus = machine.virtioBus;
  const args = [
    ["-name", vmmName(spec)],
    ["-nodefaults"],
    ["-no-user-config"],
    ["-display", "none"],
    ["-no-reboot"],
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ["-accel", spec.accelerator === "kvm" ? "kvm" : `tcg,thread=multi,tb-size=${translationBufferMib}`],
    ["-cpu", cpuModel(spec.accelerator)],
    ["-smp", String(spec.vcpus)],
    ["-m", `${spec.memoryMib}M`],
    // Without `suppress-vmdesc` it complains, where the guest's console is, that saved state does not describe itself.
    ["-machine", `${machine.options},suppress-vmdesc=on,memory-backend=memory`],
    [
      "-object",
      json({
        "qom-type": "memory-backend-file",
        id: "memory",
        size: spec.memoryMib * 1024 * 1024,
        "mem-path": insidePaths.memory,
        share: false,
        readonly: true,
        rom: "off",
        merge: false,
        dump: false,
      }),
    ],
    ...beginArguments(spec.begin, machine),
    // The console is QEMU's standard output: a pipe to the supervisor, which keeps the newest part of it.
    ["-chardev", "stdio,id=console,signal=off,mux=off"],
    ["-serial", "chardev:console"],
    ["-chardev", `socket,id=qmp,path=${insidePaths.qmpSocket},server=on,wait=off`],
    ["-mon", "chardev=qmp,mode=control"],
    ["-device", `virtio-rng-${bus}`],
    ...diskArguments(spec, bus),
    ...networkArguments(spec, bus),
  ];
  return args.flat();
}

/** Shown by `ps`, and asked for when a control connection is made again. */
export function vmmName(spec: Pick<VmSpec, "sandboxId">): string {
  return `roost-${spec.sandboxId}`;
}

export function cpuModel(accelerator: Accelerator): string {
  return accelerator === "kvm" ? "host" : emulatedCpu;
}

function beginArguments(begin: VmSpec["begin"], machine: Machine): string[][] {
  if (begin.kind === "restore") {
    // The saved state does not begin with a description of the machine, so none is to be expected.
    return [
      ["-incoming", "defer"],
      ["-global", "migration.send-configuration=off"],
    ];
  }
  return [
    ["-kernel", insidePaths.kernel],
    ["-initrd", insidePaths.initramfs],
    ["-append", [...machine.kernelArguments, ...begin.kernelArguments].join(" ")],
  ];
}

function diskArguments(spec: VmSpec, bus: Machine["virtioBus"]): string[][] {
  if (spec.disks === null) return [];
  const top = layerNode(spec.disks.root.layers.at(-1) ?? "");
  return [
    ["-add-fd", `fd=${baseDescriptor},set=${baseDescriptor}`],
    ["-add-fd", `fd=${agentDescriptor},set=${agentDescriptor}`],
    ...diskNodes(spec.disks).map((node) => ["-blockdev", json(node)]),
    ["-device", `virtio-blk-${bus},drive=${top},serial=root`],
    ["-device", `virtio-blk-${bus},drive=${agentNode},serial=agent`],
  ];
}

function networkArguments(spec: VmSpec, bus: Machine["virtioBus"]): string[][] {
  if (spec.network === null) return [];
  const rom = bus === "pci" ? ",romfile=" : "";
  return [
    ["-netdev", json({ type: "tap", id: "network", ifname: spec.network.tapName, script: "no", downscript: "no" })],
    ["-device", `virtio-net-${bus},netdev=network,mac=${spec.network.macAddress}${rom}`],
  ];
}

/** JSON rather than `key=value` pairs: a comma in a path is a comma. */
function json(value: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(value);
}
