import { z } from "zod";

/**
 * The port between the host agent and whatever runs a VM.
 *
 * A driver starts VMMs that belong to nobody: detached, so that they outlive the process that started them. What a
 * later host agent needs to take a VM over is its `VmRecord`, plain JSON that the caller keeps durably. How a VM ended
 * is known even when it ended while nobody watched.
 *
 * Implementations: `qemu` and `fake`; `testing/contract-suite.ts` holds what both promise.
 */
export interface VmmDriver {
  readonly name: string;

  /** Name and build of the VMM, such as `QEMU 10.0.2 (Debian 1:10.0.2+ds-2)`: device state is bound to it. */
  version(): Promise<string>;

  /**
   * Resolves when the VMM runs its guest (the guest itself may still be booting). Has a deadline of its own.
   * When it rejects, or `signal` aborts, everything it started is gone: processes, mounts, cgroup, files it made.
   * Rejects with `PlatformError` `sandbox_start_failed`, or with the signal's reason.
   */
  start(spec: VmSpec, signal?: AbortSignal): Promise<Vm>;

  /**
   * What device state and memory of a VM are bound to beside its devices and sizes: VMM build, accelerator, machine type, CPU model and, where the
   * guest sees it, the host's CPU. A memory image is only restored where the fingerprint is the same in every field.
   */
  fingerprint(accelerator: Accelerator): Promise<VmFingerprint>;

  /**
   * Takes over a VM that an earlier process started; how it ended when it is gone. Rejects only when neither can be
   * told (the VMM runs but does not answer): the caller then decides, usually by `destroy`.
   */
  adopt(record: VmRecord): Promise<Vm | VmExit>;

  /** Ends whatever of a VM is left, alive or half dead, and releases its cgroup. Idempotent; files stay the caller's. */
  destroy(record: VmRecord): Promise<void>;
}

export type Accelerator = "kvm" | "tcg";

export const vmFingerprintSchema = z.object({
  /** Such as `qemu`, and `VmmDriver.version()` */
  vmm: z.string(),
  vmmVersion: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  /** Such as `microvm,pit=off,pic=off,ioapic2=off` */
  machine: z.string(),
  /** CPU model; with `host`, also what the host's CPU is */
  cpu: z.string(),
});
export type VmFingerprint = z.infer<typeof vmFingerprintSchema>;

export interface VmSpec {
  readonly sandboxId: string;
  /**
   * Absolute folder of this VM, made by the caller and its alone. The driver puts everything that lives as long as the
   * VM into it (QMP socket, console, exit record); the caller removes it as a whole when the VM has ended.
   */
  readonly folder: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** A guest that boots, or one that goes on where its memory image was taken */
  readonly begin: ColdBoot | MemoryRestore;
  /** Null: a VM without disks, such as the accelerator probe's */
  readonly disks: VmDisks | null;
  /** Null: a VM without a network card */
  readonly network: VmNetwork | null;
  /** What the VMM runs as: unprivileged, and no other VM's at the same time */
  readonly uid: number;
  readonly gid: number;
  /** Name of the VM's cgroup below each controller's root, such as `roost-1a2b/i4f…`; made and removed by the driver, and shared by nobody */
  readonly cgroup?: string;
  readonly accelerator: Accelerator;
}

export interface ColdBoot {
  readonly kind: "boot";
  /** Absolute paths, never writable by the VMM */
  readonly kernel: string;
  readonly initramfs: string;
  /** Appended to the driver's own kernel command line, such as `roost.dns=192.0.2.1` */
  readonly kernelArguments: readonly string[];
}

export interface MemoryRestore {
  readonly kind: "restore";
  /** File of exactly the guest's memory size that its memory begins as; mapped privately, never written */
  readonly baseFile: string;
  /** As `Vm.saveDeviceState` wrote it, of a VM with the same `VmmDriver.fingerprint`, devices and memory size */
  readonly deviceState: string;
  /** Called once, before the guest runs: writes the pages that differ from the base file */
  readonly fill: (memory: GuestMemory) => Promise<void>;
}

/** Memory of a guest, as its VMM maps it. Only meaningful while the guest is stopped. */
export interface GuestMemory {
  readonly sizeBytes: number;
  /** Pages that differ, or may differ, from the base file: those the kernel has copied on write. In order, not adjacent to each other. */
  changedPages(): Promise<PageRun[]>;
  /** Fills `into` with the pages from `firstPage` on; its length is a multiple of the page size. Fast and synchronous: callers keep runs short. */
  read(firstPage: number, into: Uint8Array): void;
  write(firstPage: number, from: Uint8Array): void;
  close(): void;
}

/** Some pages of `pageBytes` in a row. */
export interface PageRun {
  readonly firstPage: number;
  readonly pageCount: number;
}

/** Size of a page of guest memory in `bytes`, on every machine Roost runs on */
export const pageBytes = 4096;

export interface VmDisks {
  /** Becomes /dev/vda: a chain of qcow2 layers on a raw base image */
  readonly root: {
    /** Raw image below all layers: opened read-only */
    readonly base: string;
    /**
     * Absolute folder of the layers, this sandbox's alone. The VMM sees all of it, and files that the caller puts there later; it can
     * write the files its uid owns.
     */
    readonly folder: string;
    /** File names in `folder`, oldest first. The last is the top: owned by `uid`, takes the guest's writes. Those below are frozen. */
    readonly layers: readonly string[];
    /** Size the guest sees in `MiB`: no file of the VMM grows far beyond it */
    readonly sizeMib: number;
  };
  /** Squashfs, read-only, shared by all; becomes /dev/vdb */
  readonly agentDisk: string;
}

export interface VmNetwork {
  /** Network namespace to run in, such as `/run/netns/roost-1a2b-3`; null: the host agent's own (tests) */
  readonly namespacePath: string | null;
  /** Tap device in that namespace, owned by the VM's uid */
  readonly tapName: string;
  readonly macAddress: string;
}

/** A VM this process started or adopted. */
export interface Vm {
  /** As it is now: `moveTo` changes it */
  readonly record: VmRecord;

  /** Resolves once, when the VMM has ended, whoever ended it; never rejects. */
  readonly exited: Promise<VmExit>;

  /** Newest bytes of the guest's console, at most `bytesMax`; as the guest sent them. Also after the VM ended. */
  console(bytesMax: number): Promise<Buffer>;

  /** Newest lines of the console, for people: no control characters, bounded line length. */
  consoleTail(lines: number): Promise<string[]>;

  /**
   * Stops the guest's CPUs; its disk requests are complete and on the host's disk when it resolves. Idempotent.
   * This and the next ones reject when the VMM is gone or refuses; the guest then is as it was.
   */
  stop(): Promise<void>;

  /** Lets a stopped guest go on. Idempotent. */
  continue(): Promise<void>;

  /** Whether the guest's CPUs are stopped. */
  isStopped(): Promise<boolean>;

  /** Writes the state of all devices and CPUs of a stopped guest to a new file, root's and not yet fsynced. Tens of KiB, in milliseconds. */
  saveDeviceState(path: string): Promise<void>;

  /** The memory of a stopped guest; the caller closes it. */
  openMemory(): Promise<GuestMemory>;

  /**
   * From now on the guest's writes go to `layer`, an empty layer in the root disk's folder (see `disk/layers.ts`) that the VM's uid owns; what was
   * the top until now is frozen: the VMM has closed it for writing. Atomic; milliseconds.
   */
  pushLayer(layer: string): Promise<void>;

  /** File names of the root disk's layers as the VMM has them open, oldest first: the truth after a crash between intention and deed. */
  layers(): Promise<string[]>;

  /**
   * Copies what the frozen layers hold into the top layer, while the guest runs; afterwards the chain is the base image and the top layer.
   * Rejects, with the chain as it was, when it cannot, or when `signal` aborts.
   */
  flattenLayers(signal?: AbortSignal): Promise<void>;

  /**
   * The VM now belongs to another sandbox, or lies in another folder: the caller has renamed `VmSpec.folder` (and the root disk's, which needs
   * nothing here). Returns the record that from now on leads to the VM; its cgroup keeps its name. The guest notices nothing.
   */
  moveTo(place: { readonly sandboxId: string; readonly folder: string }): VmRecord;

  /** Asks the guest to power off, waits `graceMs`, then ends the VMM with its disks flushed, then kills it. */
  shutdown(options: { readonly graceMs: number }): Promise<VmExit>;

  /** Ends the VMM at once. Idempotent. */
  kill(): Promise<VmExit>;

  /** Forgets the VM without ending it, for a host agent that stops: another one adopts it. `exited` stays pending. */
  release(): void;
}

const processIdentitySchema = z.object({ pid: z.int().positive(), startTicks: z.string().regex(/^\d{1,20}$/) });

/** What adoption needs. Written by the caller next to its own record, read back with this schema. */
export const vmRecordSchema = z.object({
  /** Format of this record */
  formatVersion: z.literal(1),
  /** `VmmDriver.name` of who started it */
  driver: z.string(),
  /** `VmmDriver.version()` of who started it */
  vmmVersion: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  sandboxId: z.string(),
  /** `VmSpec.folder` */
  folder: z.string(),
  /** /proc/sys/kernel/random/boot_id: the processes below mean nothing after a reboot of the host */
  bootId: z.string(),
  /** The VMM itself: what its CPU time and memory are read from */
  vmm: processIdentitySchema,
  /** What the VMM calls itself, also after `Vm.moveTo`: a control socket that leads to another VM is noticed */
  vmmName: z.string().max(128),
  /** Its parent, which waits for its end and writes that down */
  supervisor: processIdentitySchema,
  /** `VmSpec.cgroup`, null when it has none */
  cgroup: z.string().nullable(),
  timeStartedMs: z.number(),
});
export type VmRecord = z.infer<typeof vmRecordSchema>;

/** How a VM ended. Both null: the VMM is gone and nobody recorded how (its supervisor was killed, or the host restarted). */
export const vmExitSchema = z.object({
  exitCode: z.int().min(0).max(255).nullable(),
  /** Name such as `SIGKILL` */
  signal: z.string().nullable(),
  /** Last lines of the console and of what the VMM said itself */
  consoleTail: z.array(z.string()),
});
export type VmExit = z.infer<typeof vmExitSchema>;

/** Whether `adopt` found a VM that still runs. */
export function isRunning(adopted: Vm | VmExit): adopted is Vm {
  return "exited" in adopted;
}

/** Lines in `VmExit.consoleTail`: the trace of a kernel panic has some 45, and what it says is in front of it */
export const exitConsoleLines = 60;
