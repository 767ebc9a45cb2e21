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
   * Takes over a VM that an earlier process started; how it ended when it is gone. Rejects only when neither can be
   * told (the VMM runs but does not answer): the caller then decides, usually by `destroy`.
   */
  adopt(record: VmRecord): Promise<Vm | VmExit>;

  /** Ends whatever of a VM is left, alive or half dead, and releases its cgroup. Idempotent; files stay the caller's. */
  destroy(record: VmRecord): Promise<void>;
}

export type Accelerator = "kvm" | "tcg";

export interface VmSpec {
  readonly sandboxId: string;
  /**
   * Absolute folder of this VM, made by the caller and its alone. The driver puts everything that lives as long as the
   * VM into it (QMP socket, console, exit record); the caller removes it as a whole when the VM has ended.
   */
  readonly folder: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Absolute paths, never writable by the VMM */
  readonly kernel: string;
  readonly initramfs: string;
  /** Appended to the driver's own kernel command line, such as `roost.dns=192.0.2.1` */
  readonly kernelArguments: readonly string[];
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

export interface VmDisks {
  /** qcow2 overlay, owned by `uid`; becomes /dev/vda */
  readonly rootOverlay: {
    readonly path: string;
    /** Every file the overlay's chain needs, such as its base image: opened read-only */
    readonly backingFiles: readonly string[];
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
  readonly record: VmRecord;

  /** Resolves once, when the VMM has ended, whoever ended it; never rejects. */
  readonly exited: Promise<VmExit>;

  /** Newest bytes of the guest's console, at most `bytesMax`; as the guest sent them. Also after the VM ended. */
  console(bytesMax: number): Promise<Buffer>;

  /** Newest lines of the console, for people: no control characters, bounded line length. */
  consoleTail(lines: number): Promise<string[]>;

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

/** Lines in `VmExit.consoleTail` */
export const exitConsoleLines = 40;
