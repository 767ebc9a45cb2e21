import type { VmSpec } from "../driver.ts";
import type { VmLayout } from "./layout.ts";
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
 * Guest memory is a private mapping of `memoryFile`, an immutable file that the VMM cannot write: for a cold boot one
 * of zeros, shared by all VMs of that size; for a restore a template's base file. Either way what the guest changed is
 * what the kernel copied on write. There is no balloon: on a private mapping it would punch holes into the file. And no
 * merging of equal pages: it would let one guest find out by timing what is in another's memory.
 */
export function qemuArguments(spec: VmSpec, layout: VmLayout, machine: Machine, memoryFile: string): string[] {
  const bus = machine.virtioBus;
  const args = [
    ["-name", `roost-${spec.sandboxId}`],
    ["-nodefaults"],
    ["-no-user-config"],
    ["-display", "none"],
    ["-no-reboot"],
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ["-accel", spec.accelerator === "kvm" ? "kvm" : `tcg,thread=multi,tb-size=${translationBufferMib}`],
    ["-cpu", spec.accelerator === "kvm" ? "host" : emulatedCpu],
    ["-smp", String(spec.vcpus)],
    ["-m", `${spec.memoryMib}M`],
    ["-machine", `${machine.options},memory-backend=memory`],
    [
      "-object",
      json({
        "qom-type": "memory-backend-file",
        id: "memory",
        size: spec.memoryMib * 1024 * 1024,
        "mem-path": memoryFile,
        share: false,
        readonly: true,
        rom: "off",
        merge: false,
        dump: false,
      }),
    ],
    ["-kernel", spec.kernel],
    ["-initrd", spec.initramfs],
    ["-append", [...machine.kernelArguments, ...spec.kernelArguments].join(" ")],
    // The console is QEMU's standard output: a pipe to the supervisor, which keeps the newest part of it.
    ["-chardev", "stdio,id=console,signal=off,mux=off"],
    ["-serial", "chardev:console"],
    // A relative path: the kernel takes at most 107 bytes as the path of a socket.
    ["-chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off"],
    ["-mon", "chardev=qmp,mode=control"],
    ["-device", `virtio-rng-${bus}`],
    ...diskArguments(spec, bus),
    ...networkArguments(spec, bus),
  ];
  return args.flat();
}

function diskArguments(spec: VmSpec, bus: Machine["virtioBus"]): string[][] {
  if (spec.disks === null) return [];
  const overlay = {
    driver: "qcow2",
    "node-name": "root",
    discard: "unmap",
    "detect-zeroes": "unmap",
    file: { driver: "file", filename: spec.disks.rootOverlay.path, discard: "unmap" },
  };
  const agentDisk = {
    driver: "raw",
    "node-name": "agent",
    "read-only": true,
    file: { driver: "file", filename: spec.disks.agentDisk, "read-only": true },
  };
  return [
    ["-blockdev", json(overlay)],
    ["-device", `virtio-blk-${bus},drive=root,serial=root`],
    ["-blockdev", json(agentDisk)],
    ["-device", `virtio-blk-${bus},drive=agent,serial=agent`],
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
