import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { confine, mountTable, type Confinement } from "./confinement.ts";

let folder: string;
let plan: Confinement;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-confine-"));
  plan = {
    network: { path: "/run/netns/one" },
    uid: 70_000,
    gid: 70_001,
    cgroupProcs: ["/sys/fs/cgroup/x/cgroup.procs"],
    rootSkeleton: "/state/root",
    mountTable: join(folder, "mounts"),
    mounts: [{ source: "/state/a b\\c#d", target: "/vm/run", writable: true }],
    descriptors: [{ descriptor: 3, path: "/images/it's" }],
    fileSizeMibMax: 10,
    endsWithParent: false,
    command: ["/usr/bin/true", "it's"],
  };
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("every mount is nosuid; only what is meant to be is writable, executable or has devices", () => {
  const lines = mountTable({ ...plan, mounts: [...plan.mounts, { source: "/base", target: "/vm/memory", writable: false }] }).split("\n");
  expect(lines).toEqual([
    "/state/root /state/root none bind,ro,nosuid,noexec 0 0",
    "/usr /state/root/usr none bind,ro,nosuid,nodev 0 0",
    String.raw`/state/a\040b\134c\043d /state/root/vm/run none bind,rw,nosuid,nodev,noexec 0 0`,
    "/base /state/root/vm/memory none bind,ro,nosuid,nodev,noexec 0 0",
    "",
  ]);
});

test("a path cannot add a line to the table", () => {
  const mounts = [{ source: "/a\n/etc /etc none bind,rw 0 0", target: "/vm/run", writable: false }];
  expect(() => mountTable({ ...plan, mounts })).toThrow("absolute path of one line");
  expect(() => mountTable({ ...plan, mounts: [{ source: "relative", target: "/vm/run", writable: false }] })).toThrow("absolute path");
});

test("the table is written for root alone, and words stay words in the script", async () => {
  const [program, ...args] = await confine(plan);
  expect([program, ...args.slice(0, 3)]).toEqual(["/usr/bin/busybox", "nsenter", "--net=/run/netns/one", "/usr/bin/unshare"]);
  expect(args.join(" ")).toContain(String.raw`exec 3<'/images/it'\''s'`);
  expect(args.join(" ")).toContain(String.raw`'/usr/bin/true' 'it'\''s'`);
  expect((await stat(plan.mountTable)).mode & 0o777).toBe(0o600);
  expect(await readFile(plan.mountTable, "utf8")).toBe(mountTable(plan));
});
