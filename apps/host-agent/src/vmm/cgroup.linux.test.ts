import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { must } from "@roost/kit";
import { afterEach, expect, test } from "vitest";

import { Cgroups } from "./cgroup.ts";

// Needs root; what the host does not offer is skipped.

const parent = `roost-test-${process.pid}`;
const cgroups = await Cgroups.probe();
const limits = { memoryBytesMax: 64 * 1024 * 1024, cpusMax: 1.5, pidsMax: 7 };
const noCgroups = cgroups.controllers.length === 0;
const where = noCgroups ? "no controller can be used here" : cgroups.controllers.join(", ");

async function leftovers(): Promise<string[]> {
  const roots = ["/sys/fs/cgroup", ...(await readdir("/sys/fs/cgroup")).map((name) => join("/sys/fs/cgroup", name))];
  const entries = await Promise.all(roots.map((root) => readdir(root).catch(() => []))); // files among them
  return entries.flat().filter((name) => name === parent);
}

afterEach(async () => {
  expect(await leftovers(), "cgroups of this test").toEqual([]);
});

test.skipIf(noCgroups)(`limits what joins it (${where})`, async () => {
  const procs = await cgroups.create(`${parent}/one`, limits);
  expect(procs.length).toBeGreaterThan(0);
  const values = await Promise.all(
    ["memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max", "pids.max"].flatMap((file) =>
      procs.map((path) => readFile(join(path, "..", file), "utf8").catch(() => "")),
    ),
  );
  const read = values.filter((value) => value !== "").map((value) => value.trim());
  const expected = { memory: /^67108864$/, cpu: /^150000( 100000)?$/, pids: /^7$/ };
  for (const controller of cgroups.controllers) {
    expect(read.filter((value) => expected[controller].test(value)).length, controller).toBe(1);
  }
  await cgroups.remove(`${parent}/one`);
  await cgroups.remove(`${parent}/one`);
});

test.skipIf(noCgroups)(`is removed when the last process has left it, and its parent with the last of them (${where})`, async () => {
  const [first = ""] = await cgroups.create(`${parent}/two`, limits);
  await cgroups.create(`${parent}/three`, limits);
  const child = spawn("/usr/bin/sleep", ["1000"], { stdio: "ignore" });
  await writeFile(first, String(must(child.pid, "pid")));
  const removal = cgroups.remove(`${parent}/two`);
  child.kill("SIGKILL");
  await removal;
  expect(await leftovers()).not.toEqual([]);
  await cgroups.remove(`${parent}/three`);
});

test.skipIf(noCgroups)(`a join that is anticipated moves nobody (${where})`, async () => {
  const before = await readFile("/proc/self/cgroup", "utf8");
  cgroups.anticipateJoin();
  const [procs = ""] = await cgroups.create(`${parent}/four`, limits);
  const child = spawn("/usr/bin/sleep", ["1000"], { stdio: "ignore" });
  await writeFile(procs, String(must(child.pid, "pid")));
  expect(await readFile("/proc/self/cgroup", "utf8")).toBe(before);
  expect(await readFile(procs, "utf8")).toBe(`${child.pid}\n`);
  child.kill("SIGKILL");
  await cgroups.remove(`${parent}/four`);
});

test("version 2 gets its controllers enabled on the way down", async () => {
  const root = await mkdtemp(join(tmpdir(), "roost-cgroup-"));
  try {
    await mkdir(join(root, "roost"));
    const unified = new Cgroups([{ version: 2, mountPoint: root, controllers: ["memory", "cpu", "pids"] }]);
    expect(unified.controllers).toEqual(["memory", "cpu", "pids"]);
    expect(await unified.create("roost/vm", limits)).toEqual([join(root, "roost/vm/cgroup.procs")]);
    const read = (path: string) => readFile(join(root, path), "utf8");
    expect(await read("cgroup.subtree_control")).toBe("+memory +cpu +pids");
    expect(await read("roost/cgroup.subtree_control")).toBe("+memory +cpu +pids");
    expect(await read("roost/vm/memory.max")).toBe("67108864");
    expect(await read("roost/vm/cpu.max")).toBe("150000 100000");
    expect(await read("roost/vm/pids.max")).toBe("7");
  } finally {
    await rm(root, { recursive: true });
  }
});

test("a host without cgroups is one without limits", async () => {
  const none = new Cgroups([]);
  expect(none.controllers).toEqual([]);
  expect(await none.create("roost/vm", limits)).toEqual([]);
  await none.remove("roost/vm");
});
