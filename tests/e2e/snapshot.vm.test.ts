import { RoostError, type SandboxHandle } from "@roost/sdk";
import { beforeAll, describe, expect, test } from "vitest";

import { roost } from "../support/cli.ts";
import { usePlatform } from "../support/platform.ts";

const platform = usePlatform();
beforeAll(async () => platform().untilMemoryImage());

const output = async (sandbox: SandboxHandle, command: string) => (await sandbox.exec("sh", { args: ["-c", command] })).stdout.trim();

/** What must differ between any two sandboxes, each as the guest sees it. */
const identity =
  "cat /proc/sys/kernel/hostname /etc/machine-id /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1; echo $ROOST_SANDBOX_ID";

describe("snapshots", () => {
  test("of a running sandbox: it runs on, and others start mid-thought", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.files.write("/dev/shm/thought", "half a thought");
    await sandbox.files.write("/home/user/file", "on disk");
    const { pid } = await sandbox.execBackground("sleep", { args: ["100000"], tag: "sleeper" });
    const snapshot = await platform().client.snapshots.create(sandbox.id, "mid-thought");
    expect(snapshot).toMatchObject({ name: "mid-thought", source_sandbox_id: sandbox.id, has_memory: true, vcpus: 1, memory_mb: 512 });
    await sandbox.files.write("/dev/shm/thought", "another thought");

    const children = await Promise.all([1, 2].map(() => platform().sandbox({ template: "mid-thought", timeout_sec: 0 })));
    for (const child of children) {
      expect(await child.get()).toMatchObject({ start_path: "restore", template: "mid-thought", vcpus: 1, memory_mb: 512 });
      expect(await child.files.readText("/dev/shm/thought")).toBe("half a thought");
      expect(await child.files.readText("/home/user/file")).toBe("on disk");
      expect(await child.processes.list()).toContainEqual(expect.objectContaining({ pid, tag: "sleeper" }));
      await child.files.write("/home/user/file", child.id);
    }
    expect(await sandbox.files.readText("/dev/shm/thought")).toBe("another thought");
    expect(await sandbox.files.readText("/home/user/file")).toBe("on disk");
    const identities = await Promise.all([sandbox, ...children].map((each) => output(each, identity)));
    const lines = identities.map((text) => text.split("\n"));
    for (const line of [0, 1, 2, 3, 4]) expect(new Set(lines.map((each) => each[line])).size, identities.join("\n\n")).toBe(3);

    // The snapshot depends on nothing
    await sandbox.delete();
    const [first, second] = children;
    await first?.pause();
    await first?.resume();
    expect(await first?.files.readText("/home/user/file")).toBe(first?.id);
    const inUse = await platform()
      .client.snapshots.delete("mid-thought")
      .catch((error: unknown) => error);
    expect(inUse).toMatchObject({ code: "snapshot_in_use", status: 409, message: expect.stringContaining(first?.id ?? "?") as string });
    await first?.delete();
    await second?.delete();
    await platform().client.snapshots.delete("mid-thought");
    await expect(platform().client.snapshots.get("mid-thought")).rejects.toMatchObject({ code: "snapshot_not_found" });
  });

  test("of a paused sandbox: it stays paused; a name is taken once; sizes are as they were saved", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.files.write("/dev/shm/thought", "paused thought");
    await sandbox.pause();
    await platform().client.snapshots.create(sandbox.id, "asleep");
    expect((await sandbox.get()).state).toBe("paused");
    for (const name of ["asleep", "base"]) {
      const taken = await platform()
        .client.snapshots.create(sandbox.id, name)
        .catch((error: unknown) => error);
      expect(taken).toMatchObject({ code: "snapshot_exists", status: 409 });
    }
    const asked = await platform()
      .client.sandboxes.create({ template: "asleep", memory_mb: 1024 })
      .catch((error: unknown) => error);
    expect(asked).toBeInstanceOf(RoostError);
    expect(asked).toMatchObject({ code: "template_size_fixed", message: expect.stringMatching(/vcpus 1.*memory_mb 512/) as string });
    const child = await platform().sandbox({ template: "asleep", timeout_sec: 0 });
    expect(await child.files.readText("/dev/shm/thought")).toBe("paused thought");
    await child.delete();
    await sandbox.delete();
    const removed = await roost(platform(), ["snapshot", "rm", "asleep"]);
    expect(removed.exitCode, removed.stderr).toBe(0);
  });

  test("of the disk alone: sandboxes boot from it, in any size", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.files.write("/home/user/file", "on disk");
    const snapshot = await platform().client.snapshots.create(sandbox.id, "disk-only", { memory: false });
    expect(snapshot).toMatchObject({ has_memory: false, vcpus: null, memory_mb: null });
    expect((await sandbox.get()).state).toBe("running");
    const child = await platform().sandbox({ template: "disk-only", memory_mb: 384, timeout_sec: 0 });
    expect(await child.get()).toMatchObject({ start_path: "boot", memory_mb: 384 });
    expect(await child.files.readText("/home/user/file")).toBe("on disk");
    await child.delete();
    await sandbox.delete();
    await platform().client.snapshots.delete("disk-only");
  });
});

describe("forks", () => {
  test("have the parent's memory and files, an identity of their own, and go their own ways", async () => {
    const parent = await platform().sandbox({ timeout_sec: 0, metadata: { family: "one" } });
    await parent.files.write("/dev/shm/thought", "shared");
    await parent.exec("sh", { args: ["-c", "echo unsynced > /home/user/file"] });
    const results = await parent.fork(3);
    const children = results.map((result) => {
      if ("error" in result) throw new Error(`${result.error.code}: ${result.error.message}`);
      expect(result.sandbox).toMatchObject({ state: "running", metadata: { family: "one" }, start_path: "restore" });
      return platform().client.sandbox(result.sandbox.id);
    });
    const identities = await Promise.all([parent, ...children].map((each) => output(each, identity)));
    const lines = identities.map((text) => text.split("\n"));
    for (const line of [0, 1, 2, 3, 4]) expect(new Set(lines.map((each) => each[line])).size, identities.join("\n\n")).toBe(4);
    for (const child of children) {
      expect(await child.files.readText("/dev/shm/thought")).toBe("shared");
      expect(await output(child, "cat /home/user/file; hostname")).toBe(`unsynced\n${child.id}`);
      await child.files.write("/home/user/file", child.id);
    }
    expect(await output(parent, "cat /home/user/file")).toBe("unsynced");
    // The parent's token opens no child's guest, and the other way round: each was given its own
    await parent.delete();
    for (const child of children) {
      expect(await child.files.readText("/home/user/file")).toBe(child.id);
      await child.delete();
    }
  });
});

describe("checkpoints", () => {
  test("are kept and gone back to", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    for (const step of [1, 2]) {
      await sandbox.files.write("/dev/shm/step", `memory ${step}`);
      await sandbox.files.write("/home/user/step", `disk ${step}`);
      await sandbox.checkpoint();
    }
    await sandbox.files.write("/home/user/step", "disk 3");
    const [newest, older] = await sandbox.generations();
    expect([newest?.is_current, older?.is_current]).toEqual([true, false]);
    for (const [generation, step] of [
      [older, 1],
      [newest, 2],
    ] as const) {
      expect(await sandbox.rollback(generation?.number ?? 0)).toMatchObject({ state: "running", current_generation: generation?.number });
      expect(await sandbox.files.readText("/dev/shm/step")).toBe(`memory ${step}`);
      expect(await sandbox.files.readText("/home/user/step")).toBe(`disk ${step}`);
    }
    const listed = await roost(platform(), ["generations", sandbox.id, "--json"]);
    expect(JSON.parse(listed.stdout.toString())).toHaveLength(2);
    await sandbox.delete();
  });
});
