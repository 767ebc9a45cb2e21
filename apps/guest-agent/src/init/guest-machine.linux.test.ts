import { execFileSync } from "node:child_process";
import {
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { Launcher } from "../launcher/launcher.ts";
import { builtLauncher } from "../testing/test-agent.ts";
import { createGuestMachine, type GuestMachine } from "./guest-machine.ts";

let root: string;
let launcher: Launcher;
let machine: GuestMachine;
let log: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "roost-machine-"));
  for (const folder of ["etc", "run/roost", "var/lib/dbus", "var/lib/systemd"]) mkdirSync(join(root, folder), { recursive: true });
  // A host name of its own: this machine keeps its.
  const program = join(root, "launcher");
  writeFileSync(program, `#!/bin/sh\nPATH=/usr/bin:/bin exec unshare --uts ${builtLauncher()}\n`, { mode: 0o755 });
  log = "";
  const logger = createLogger({ level: "warn", destination: { write: (line) => void (log += line) } });
  launcher = new Launcher(program, logger, {
    onListener: () => undefined,
    onFailure: (error) => {
      throw error;
    },
  });
  machine = createGuestMachine(launcher, logger, root);
});
afterEach(() => {
  launcher.close();
  rmSync(root, { recursive: true });
});

const path = (name: string) => join(root, name);
const read = (name: string) => readFileSync(path(name), "utf8");
const id = "0123456789abcdef0123456789abcdef";

/** As a process of the guest sees it. */
async function hostname(): Promise<string> {
  const pipe = { uid: 0, gid: 0, groups: [0], stdin: false, terminal: undefined, cwd: "/", cwdOptional: false, envs: {} };
  const started = await launcher.start({ ...pipe, argv: ["/bin/sh", "-c", `uname -n >${path("uname")}`] });
  await started.exited;
  return read("uname").trim();
}

test("host name, hosts and machine id are set; files that were there stay the same files", async () => {
  writeFileSync(path("etc/hostname"), "a-name-longer-than-the-new-one\n");
  writeFileSync(path("etc/hosts"), "127.0.0.1 localhost\n");
  writeFileSync(path("etc/machine-id"), "uninitialized\n", { mode: 0o444 });
  const inodes = ["hostname", "hosts", "machine-id"].map((name) => statSync(path(`etc/${name}`)).ino);
  await machine.become({ hostname: "sb1", machineId: id });
  expect([read("etc/hostname"), read("etc/hosts"), read("etc/machine-id")]).toEqual([
    "sb1\n",
    "127.0.0.1 localhost\n127.0.1.1 sb1 # set by the sandbox\n",
    `${id}\n`,
  ]);
  expect(["hostname", "hosts", "machine-id"].map((name) => statSync(path(`etc/${name}`)).ino)).toEqual(inodes);
  expect(await hostname()).toBe("sb1");
  expect(readdirSync(path("run/roost"))).toEqual([]);
  expect(log).toBe("");
});

test("files that are missing or empty are made, readable by all", async () => {
  writeFileSync(path("etc/machine-id"), "");
  await machine.become({ hostname: "sb1", machineId: id });
  expect([read("etc/hostname"), read("etc/machine-id")]).toEqual(["sb1\n", `${id}\n`]);
  expect([statSync(path("etc/hostname")).mode & 0o777, statSync(path("etc/machine-id")).mode & 0o777]).toEqual([0o644, 0o444]);
  expect(readdirSync(path("etc")).toSorted()).toEqual(["hostname", "hosts", "machine-id"]);
});

test("D-Bus's machine id is written where it is a file of its own, and only there", async () => {
  await machine.become({ machineId: id });
  expect(readdirSync(path("var/lib/dbus"))).toEqual([]);
  writeFileSync(path("var/lib/dbus/machine-id"), "f".repeat(32));
  await machine.become({ machineId: id });
  expect(read("var/lib/dbus/machine-id")).toBe(`${id}\n`);
  rmSync(path("var/lib/dbus/machine-id"));
  symlinkSync("/etc/machine-id", path("var/lib/dbus/machine-id"));
  await machine.become({ machineId: id });
  expect(lstatSync(path("var/lib/dbus/machine-id")).isSymbolicLink()).toBe(true);
});

test("a link is never followed: it is replaced", async () => {
  writeFileSync(path("precious"), "kept\n");
  symlinkSync(path("precious"), path("etc/hostname"));
  await machine.become({ hostname: "sb1" });
  expect([read("precious"), read("etc/hostname")]).toEqual(["kept\n", "sb1\n"]);
  expect(lstatSync(path("etc/hostname")).isFile()).toBe(true);
});

test("a pipe in the place of a file holds nobody up", async () => {
  execFileSync("mkfifo", [path("etc/hostname")]);
  await machine.become({ hostname: "sb1" });
  expect(read("etc/hostname")).toBe("sb1\n");
});

test("entropy makes a new generation id each time, and nothing else does", async () => {
  const ids = new Set<string>();
  for (let count = 0; count < 3; count += 1) {
    await machine.become({ entropy: new Uint8Array(64).fill(count) });
    ids.add(read("run/roost/generation-id"));
  }
  expect([...ids].every((text) => /^[0-9a-f]{32}\n$/.test(text))).toBe(true);
  expect(ids.size).toBe(3);
  const before = read("run/roost/generation-id");
  expect(statSync(path("run/roost/generation-id")).mode & 0o777).toBe(0o444);
  await machine.become({ hostname: "sb2" });
  expect(read("run/roost/generation-id")).toBe(before);
});

test("the sandbox's variables are for root alone, and for whoever notices the new generation", async () => {
  await machine.become({ entropy: new Uint8Array(64), variables: { A: "1", SECRET: "s\nž\0" } });
  expect(JSON.parse(read("run/roost/environment.json"))).toEqual({ A: "1", SECRET: "s\nž\0" });
  expect(statSync(path("run/roost/environment.json")).mode & 0o777).toBe(0o600);
  await machine.become({ entropy: new Uint8Array(64), variables: {} });
  expect(read("run/roost/environment.json")).toBe("{}\n");
});

test("a file that cannot be written is told, and stops nothing", async () => {
  mkdirSync(path("etc/machine-id/in-the-way"), { recursive: true });
  await machine.become({ hostname: "sb1", machineId: id });
  expect(read("etc/hostname")).toBe("sb1\n");
  expect(log).toContain("etc/machine-id");
  expect(readdirSync(path("etc")).toSorted()).toEqual(["hostname", "hosts", "machine-id"]);
});

test("a root file system without any folder is one without files to write", async () => {
  rmSync(path("etc"), { recursive: true });
  await machine.become({ hostname: "sb1", machineId: id });
  expect(await hostname()).toBe("sb1");
  expect(log).toBe("");
});

test("what is forgotten is no id of anybody", async () => {
  writeFileSync(path("var/lib/dbus/machine-id"), "f".repeat(32));
  writeFileSync(path("var/lib/systemd/random-seed"), "seed");
  linkSync(path("var/lib/systemd/random-seed"), path("etc/other")); // the name goes, whatever else it is
  await machine.become({ hostname: "sb1", machineId: id, entropy: new Uint8Array(64), variables: { A: "1" } });
  await machine.forget();
  expect([read("etc/hostname"), read("etc/machine-id"), await hostname()]).toEqual(["sandbox\n", "uninitialized\n", "sandbox"]);
  expect(read("etc/hosts")).not.toContain("sb1");
  expect([readdirSync(path("var/lib/dbus")), readdirSync(path("var/lib/systemd")), readdirSync(path("run/roost"))]).toEqual([[], [], []]);
});

test("sync comes back", async () => {
  writeFileSync(path("dirty"), "x".repeat(100_000));
  await machine.sync();
  expect(read("dirty").length).toBe(100_000);
});
