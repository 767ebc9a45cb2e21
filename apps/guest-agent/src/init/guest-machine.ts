import { readFileSync, rmSync } from "node:fs";

import type { Logger } from "@roost/kit";

import { libc } from "../filesystem/libc.ts";
import { becomeSteps, type BecomeFile } from "../launcher/frames.ts";
import type { Launcher } from "../launcher/launcher.ts";
import { hostsWith } from "./hosts-file.ts";
import { TrustedAuthority } from "./trusted-authority.ts";

/** What `/init` changes about the guest as a machine. What is undefined stays as it is. */
export interface MachineChange {
  /** Fresh random bytes: with them the machine is another one than all restored from the same image, and gets a new generation id */
  readonly entropy?: Uint8Array | undefined;
  /** Wall clock; may have a fraction */
  readonly unixMs?: number | undefined;
  readonly hostname?: string | undefined;
  /** 32 hex digits */
  readonly machineId?: string | undefined;
  /** The sandbox's variables, for what runs already: a template's start command was started when there was no sandbox yet */
  readonly variables?: Readonly<Record<string, string>> | undefined;
}

/** The guest as a machine. A port: tests must not set the clock of the host they run on. */
export interface GuestMachine {
  /** Rejects when entropy, clock or host name cannot be set. A file that cannot be written (a read-only root) is only logged. */
  become(change: MachineChange): Promise<void>;
  /** Resolves when all file systems are on their disks. */
  sync(): Promise<void>;
  /** Makes the machine nobody's: what of its identity is on its disk goes. */
  forget(): Promise<void>;
  /** Whom its programs trust beside everybody's authorities */
  readonly trustedAuthority: Pick<TrustedAuthority, "isInstalled" | "install">;
}

/** Whoever keeps state that must not exist twice (random numbers drawn ahead, say) compares this file with what it was. Changes at every restore. */
export const generationIdPath = "/run/roost/generation-id";

/** The sandbox's variables as a JSON object. Only root may read it: they are often secrets. Written before the generation id changes. */
export const environmentPath = "/run/roost/environment.json";

const machineIdPath = "/etc/machine-id";
/** As machine-id(5) has it. Not an empty file: the id that comes later is written over it, which needs no room and makes no file. */
const machineIdUntold = "uninitialized\n";
/** Mostly a link to the one above, or absent; a file of its own has to say the same. */
const dbusMachineIdPath = "/var/lib/dbus/machine-id";
/** Host name of a machine that is nobody's yet, as `guest/prepare-root` of the images sets it. */
const hostnameUntold = "sandbox";
/** What init systems keep to credit to the kernel's generator at the next boot: not to be used twice. */
const randomSeeds = ["/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed"];

/**
 * All in one message to the launcher: after a restore every function that runs for the first time costs, and this is on the
 * way of each create. Nothing is fsynced: memory and disk of a sandbox are saved together, and a boot is told anew.
 *
 * `root` stands in front of every path; for tests.
 */
export function createGuestMachine(launcher: Launcher, log: Logger, root = ""): GuestMachine {
  const become = async (change: MachineChange, files: readonly BecomeFile[]) => {
    const { step, errno } = await launcher.become({
      entropy: change.entropy,
      unixMs: change.unixMs,
      hostname: change.hostname,
      files: files.map((file) => ({ ...file, path: root + file.path })),
    });
    if (step === 0) return;
    const [failed] = Object.entries(becomeSteps).find(([, number]) => number === Math.min(step, becomeSteps.files)) ?? ["step"];
    if (step < becomeSteps.files) throw new Error(`could not set ${failed}: errno ${errno}`);
    log.warn({ path: files[step - becomeSteps.files]?.path, errno }, "a file of the guest's identity could not be written");
  };
  return {
    trustedAuthority: new TrustedAuthority(root),
    become: async (change) => become(change, identityFiles(change, root)),
    sync: async () => libc().sync(),
    async forget() {
      for (const path of [...randomSeeds, dbusMachineIdPath, environmentPath, generationIdPath]) rmSync(root + path, { force: true });
      const files: BecomeFile[] = [
        { path: machineIdPath, mode: 0o444, content: machineIdUntold, how: "in place" },
        { path: "/etc/hostname", mode: 0o644, content: `${hostnameUntold}\n`, how: "in place" },
        { path: "/etc/hosts", mode: 0o644, content: hostsWith(readHosts(root), undefined), how: "in place" },
      ];
      await become({ hostname: hostnameUntold }, files);
    },
  };
}

function identityFiles({ entropy, hostname, machineId, variables }: MachineChange, root: string): BecomeFile[] {
  const files: BecomeFile[] = [];
  if (machineId !== undefined) {
    const content = `${machineId}\n`;
    files.push({ path: machineIdPath, mode: 0o444, content, how: "in place" });
    files.push({ path: dbusMachineIdPath, mode: 0o444, content, how: "existing" });
  }
  if (hostname !== undefined) {
    files.push({ path: "/etc/hostname", mode: 0o644, content: `${hostname}\n`, how: "in place" });
    // sudo and others look their own host name up and complain when it is unknown.
    files.push({ path: "/etc/hosts", mode: 0o644, content: hostsWith(readHosts(root), hostname), how: "in place" });
  }
  if (variables !== undefined) {
    files.push({ path: environmentPath, mode: 0o600, content: `${JSON.stringify(variables)}\n`, how: "replace" });
  }
  // Last: who sees it change finds everything else changed.
  if (entropy !== undefined) files.push({ path: generationIdPath, mode: 0o444, content: undefined, how: "replace" });
  return files;
}

function readHosts(root: string): string {
  try {
    return readFileSync(`${root}/etc/hosts`, "utf8");
  } catch {
    return "127.0.0.1 localhost\n::1 localhost\n"; // there is none, or nobody can read it
  }
}
