import { Sandbox, SandboxError, SandboxNotFoundError } from "e2b";
import { describe, expect, test } from "vitest";

import { api, bootId, failureOf, killedAtEnd, output, ownSandbox, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();

const unknownId = "izzzzzzzzzzzzzzzzzzzz";
const minute = 60_000;

/** Forks that must all have succeeded. */
async function forksOf(parent: Sandbox, options: Parameters<Sandbox["fork"]>[0] = {}): Promise<(Sandbox & AsyncDisposable)[]> {
  const results = await parent.fork({ timeoutMs: 10 * minute, ...options });
  return results.map((result) => {
    if (result instanceof Error) throw result;
    return killedAtEnd(result);
  });
}

const killAll = (sandboxes: readonly Sandbox[]) => Promise.all(sandboxes.map((one) => one.kill()));

describe("fork", () => {
  const parent = useE2bSandbox({ timeoutMs: 30 * minute, metadata: { family: "forks" }, envs: { FAMILY: "forks" } });

  test("a child goes on where its parent is, with files and processes, and apart from it", async () => {
    await parent().files.write("shared", "before");
    const counter = await parent().commands.run("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.2; done", {
      background: true,
      timeoutMs: 0,
    });
    const boot = await bootId(parent()); // made up by the kernel when it is first read
    const [child] = await forksOf(parent());
    if (child === undefined) throw new Error("no child");
    await using own = child;
    expect(own.sandboxId).not.toBe(parent().sandboxId);
    expect(await own.files.read("shared")).toBe("before");
    expect(await bootId(own)).toBe(boot);
    expect((await own.commands.list()).map(({ pid }) => pid)).toContain(counter.pid);
    const before = Number(await own.files.read("/tmp/count"));
    await until("it counts on", async () => Number(await own.files.read("/tmp/count")) > before);
    await own.files.write("shared", "child");
    await parent().files.write("shared", "parent");
    expect(await own.files.read("shared")).toBe("child");
    await counter.kill();
  });

  test("several children are others than their parent and than each other", async () => {
    const children = await forksOf(parent(), { count: 3 });
    try {
      const family = [parent(), ...children];
      const identities = await Promise.all(
        family.map((one) => output(one, "cat /etc/machine-id; hostname; head -c 16 /dev/urandom | od -An -tx1")),
      );
      expect(new Set(identities.flatMap((text) => text.split("\n"))).size).toBe(identities.length * 3);
    } finally {
      await killAll(children);
    }
  });

  test("children inherit metadata and environment, and have a token of their own", async () => {
    const [child] = await forksOf(parent());
    if (child === undefined) throw new Error("no child");
    await using own = child;
    expect((await own.getInfo()).metadata).toEqual({ family: "forks" });
    expect(await output(own, "echo $FAMILY")).toBe("forks");
    const urls = await Promise.all([own.downloadUrl("/etc/hostname"), parent().downloadUrl("/etc/hostname")]);
    expect(new URL(urls[0]).searchParams.get("signature")).not.toBe(new URL(urls[1]).searchParams.get("signature"));
  });

  test("the parent keeps its id and its end; a child has the end it was given", async () => {
    const before = (await parent().getInfo()).endAt.getTime();
    const [child] = await Sandbox.fork(parent().sandboxId, { timeoutMs: 5 * minute });
    if (!(child instanceof Sandbox)) throw child ?? new Error("no child");
    await using own = killedAtEnd(child);
    const info = await own.getInfo();
    expect(info.state).toBe("running");
    const livesMs = info.endAt.getTime() - info.startedAt.getTime();
    expect(livesMs).toBeGreaterThan(4 * minute);
    expect(livesMs).toBeLessThan(7 * minute);
    expect((await parent().getInfo()).endAt.getTime()).toBe(before);
  });

  test("a child of a child", async () => {
    const [child] = await forksOf(parent());
    if (child === undefined) throw new Error("no child");
    await using own = child;
    await own.files.write("generation", "two");
    const [grandchild] = await forksOf(own);
    if (grandchild === undefined) throw new Error("no grandchild");
    await using last = grandchild;
    expect(await last.files.read("generation")).toBe("two");
  });

  test("of one that is paused: it stays paused", async () => {
    await using own = await ownSandbox();
    await own.files.write("kept", "yes");
    await own.pause();
    const [child] = await forksOf(own);
    if (child === undefined) throw new Error("no child");
    await using forked = child;
    expect(await forked.files.read("kept")).toBe("yes");
    expect((await own.getInfo()).state).toBe("paused");
  });

  test("one that has ended or never was", async () => {
    await expect(Sandbox.fork(unknownId)).rejects.toBeInstanceOf(SandboxNotFoundError);
    const own = await Sandbox.create();
    await own.kill();
    await expect(own.fork()).rejects.toBeInstanceOf(SandboxNotFoundError);
  });

  test.each([0, 101, 1.5])("%d children are refused", async (count) => {
    expect(await failureOf(parent().fork({ count }))).toMatchObject({ statusCode: 400, message: expect.stringContaining("count") });
  });
});

describe("snapshots", () => {
  const source = useE2bSandbox({ timeoutMs: 30 * minute });
  const listed = async (options: Parameters<typeof Sandbox.listSnapshots>[0] = {}) => {
    const paginator = Sandbox.listSnapshots(options);
    const found = [];
    while (paginator.hasNext) found.push(...(await paginator.nextItems()));
    return found;
  };

  test("without a name: sandboxes start from its id, with files and processes", async () => {
    await source().files.write("state", "saved");
    const sleeper = await source().commands.run("exec sleep 3000", { background: true, timeoutMs: 0 });
    const boot = await bootId(source()); // made up by the kernel when it is first read
    const { snapshotId } = await source().createSnapshot();
    expect(snapshotId).not.toBe("");
    expect(await source().isRunning()).toBe(true);
    await using own = await ownSandbox({ template: snapshotId });
    expect(await own.files.read("state")).toBe("saved");
    expect((await own.commands.list()).map(({ pid }) => pid)).toContain(sleeper.pid);
    expect(await bootId(own)).toBe(boot);
    await sleeper.kill();
    await own.kill();
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
  });

  test("with a name: created from by name, by name and tag, and by id", async () => {
    await source().files.write("named", "yes");
    const { snapshotId, names } = await source().createSnapshot({ name: "trained" });
    expect(names.join(" ")).toContain("trained");
    for (const template of ["trained", "trained:default", snapshotId]) {
      const own = await Sandbox.create(template);
      expect(await own.files.read("named"), template).toBe("yes");
      await own.kill();
    }
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
  });

  test("tags of one name are different snapshots", async () => {
    await source().files.write("version", "1");
    const one = await source().createSnapshot({ name: "tagged:v1" });
    await source().files.write("version", "2");
    const two = await source().createSnapshot({ name: "tagged:v2" });
    const versions = [];
    for (const { snapshotId } of [one, two]) {
      const own = await Sandbox.create(snapshotId);
      versions.push(await own.files.read("version"));
      await own.kill();
    }
    expect(versions).toEqual(["1", "2"]);
    for (const { snapshotId } of [one, two]) expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
  });

  test("the same name again takes the newer state", async () => {
    await source().files.write("again", "old");
    await source().createSnapshot({ name: "again" });
    await source().files.write("again", "new");
    const { snapshotId } = await source().createSnapshot({ name: "again" });
    const own = await Sandbox.create("again");
    expect(await own.files.read("again")).toBe("new");
    await own.kill();
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
  });

  test("are listed, by sandbox and by name, in pages", async () => {
    await using other = await ownSandbox();
    const made = [];
    for (const [from, name] of [
      [source(), "listed-a"],
      [source(), "listed-b"],
      [other, "listed-c"],
    ] as const)
      made.push(await from.createSnapshot({ name }));
    const ids = made.map(({ snapshotId }) => snapshotId);
    expect((await listed()).map(({ snapshotId }) => snapshotId)).toEqual(expect.arrayContaining(ids));
    expect((await listed({ sandboxId: other.sandboxId })).map(({ snapshotId }) => snapshotId)).toEqual([ids[2]]);
    expect((await listed({ name: "listed-b" })).map(({ snapshotId }) => snapshotId)).toEqual([ids[1]]);
    const paged = (await listed({ limit: 1 })).map(({ snapshotId }) => snapshotId);
    expect(paged).toEqual((await listed()).map(({ snapshotId }) => snapshotId));
    const ofSource = source().listSnapshots({ limit: 100 });
    expect((await ofSource.nextItems()).map(({ snapshotId }) => snapshotId).toSorted()).toEqual([ids[0], ids[1]].toSorted());
    for (const id of ids) expect(await Sandbox.deleteSnapshot(id)).toBe(true);
  });

  test("outlive the sandbox they were made of", async () => {
    const own = await Sandbox.create();
    await own.files.write("legacy", "here");
    const { snapshotId } = await own.createSnapshot();
    await own.kill();
    const heir = await Sandbox.create(snapshotId);
    expect(await heir.files.read("legacy")).toBe("here");
    await heir.kill();
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
  });

  test("deleted once; then nothing starts from it", async () => {
    const { snapshotId } = await source().createSnapshot({ name: "deleted-once" });
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(true);
    expect(await Sandbox.deleteSnapshot(snapshotId)).toBe(false);
    const error = await failureOf(Sandbox.create(snapshotId));
    expect(error).toBeInstanceOf(SandboxError);
    expect(error).toMatchObject({ statusCode: 404 });
  });

  test("of one that is paused", async () => {
    await using own = await ownSandbox();
    await own.files.write("kept", "yes");
    await own.pause();
    const { snapshotId } = await own.createSnapshot();
    expect((await own.getInfo()).state).toBe("paused");
    const heir = await Sandbox.create(snapshotId);
    expect(await heir.files.read("kept")).toBe("yes");
    await heir.kill();
    await Sandbox.deleteSnapshot(snapshotId);
  });

  test("of one that never was; with a name that cannot be one", async () => {
    await expect(Sandbox.createSnapshot(unknownId)).rejects.toBeInstanceOf(SandboxNotFoundError);
    for (const name of ["a b", "évil", "a:b:c", ".", ":tag", "name:", "x".repeat(300)]) {
      expect(await failureOf(source().createSnapshot({ name })), JSON.stringify(name)).toMatchObject({ statusCode: 400 });
    }
  });

  test("base is no snapshot and stays", async () => {
    expect((await api("DELETE", "/templates/base")).status).toBeGreaterThanOrEqual(400);
    expect((await listed()).flatMap(({ names }) => names)).not.toContain("base");
    const own = await Sandbox.create("base");
    expect(await own.kill()).toBe(true);
  });
});
