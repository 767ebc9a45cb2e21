import { readFile, stat, writeFile } from "node:fs/promises";

import { writeFileDurably } from "@roost/kit";

import type { Launcher } from "../launcher/launcher.ts";

/** What `/init` changes about the guest as a machine. A port: tests must not set the clock of the host they run on. */
export interface GuestMachine {
  /** Sets the wall clock; `unixMs` may have a fraction. */
  setClock(unixMs: number): Promise<void>;
  addEntropy(bytes: Uint8Array): Promise<void>;
  setHostname(name: string): Promise<void>;
  setMachineId(id: string): Promise<void>;
}

/** Marks the line of /etc/hosts that is ours to replace. */
const hostsMark = "# set by the sandbox";

export function createGuestMachine(launcher: Launcher): GuestMachine {
  return {
    async setClock(unixMs) {
      failOnErrno("set the clock", await launcher.setClock(unixMs));
    },

    async addEntropy(bytes) {
      failOnErrno("add entropy", await launcher.addEntropy(bytes));
    },

    async setHostname(name) {
      await writeFile("/proc/sys/kernel/hostname", name);
      if (!(await isFolder("/etc"))) return; // an empty root file system has nothing that would read them
      await writeFileDurably("/etc/hostname", `${name}\n`);
      // sudo and others look their own host name up and complain when it is unknown.
      const hosts = await readFile("/etc/hosts", "utf8").catch(() => "127.0.0.1 localhost\n::1 localhost\n");
      await writeFileDurably("/etc/hosts", hostsWith(hosts, name));
    },

    async setMachineId(id) {
      if (await isFolder("/etc")) await writeFileDurably("/etc/machine-id", `${id}\n`, { mode: 0o444 });
    },
  };
}

/** The text of a hosts file in which `name` is this machine, and no earlier name of ours. */
export function hostsWith(hosts: string, name: string): string {
  const lines = hosts.split("\n").filter((line) => line !== "" && !line.endsWith(hostsMark));
  return `${[...lines, `127.0.1.1 ${name} ${hostsMark}`].join("\n")}\n`;
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

function failOnErrno(what: string, errno: number): void {
  if (errno !== 0) throw new Error(`could not ${what}: errno ${errno}`);
}
