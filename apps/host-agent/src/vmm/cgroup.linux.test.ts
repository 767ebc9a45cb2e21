import { spawn } from "node:child_process";
import { access, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { identifyProcess, must } from "@roost/kit";
import { afterEach, expect, test } from "vitest";

import { Cgroups } from "./cgroup.ts";

// Needs root; what the host does not offer is skipped.

const parent = `roost-test-${process.pid}`;
const cgroups = await Cgroups.probe(`${parent}-probe`);
const limits = { memoryBytesMax: 64 * 1024 * 1024, cpusMax: 1.5, pidsMax: 7 };
const noCgroups = cgroups.controllers.length === 0;
const where = noCgroups ? "no controller can be used here" : cgroups.controllers.join(", ");

afterEach(async () => {
  for (const name of await cgroups.list(parent)) await cgroups.sweep(name);
  await expect(Promise.any(["", "memory", "cpu", "pids"].map((root) => access(join("/sys/fs/cgroup", root, parent))))).rejects.toThrow(
    "All promises were rejected",
  );
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
  expect(await cgroups.list(parent)).toEqual([]);
});

test.skipIf(noCgroups)(`a sweep ends what is in it (${where})`, async () => {
  const [first = ""] = await cgroups.create(`${parent}/two`, limits);
  await cgroups.create(`${parent}/three`, limits);
  expect(await cgroups.list(parent)).toEqual([`${parent}/three`, `${parent}/two`]);
  const child = spawn("/usr/bin/sleep", ["1000"], { stdio: "ignore" });
  const pid = must(child.pid, "pid");
  await writeFile(first, String(pid));
  await cgroups.sweep(`${parent}/two`);
  expect(await identifyProcess(pid)).toBeUndefined();
  expect(await cgroups.list(parent)).toEqual([`${parent}/three`]);
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
