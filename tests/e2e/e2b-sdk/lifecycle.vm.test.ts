import { Sandbox, SandboxError, SandboxNotFoundError, TimeoutError } from "e2b";
import { describe, expect, test } from "vitest";

import { api, bootId, failureOf, output, ownSandbox, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();

/** Well formed, and nobody's. */
const unknownId = "izzzzzzzzzzzzzzzzzzzz";
const second = 1_000;
const minute = 60 * second;

describe("create", () => {
  const sandbox = useE2bSandbox({ metadata: { purpose: "e2b tests", "other key": "é=&?" }, envs: { PROJECT: "roost" } });

  test("an id that can be part of a host name, and a running sandbox", async () => {
    expect(sandbox().sandboxId).toMatch(/^[a-z0-9]{1,40}$/);
    expect(await sandbox().isRunning()).toBe(true);
  });

  test("the host of a port is made of port and id", () => {
    expect(sandbox().getHost(3000)).toBe(`3000-${sandbox().sandboxId}.${sandbox().sandboxDomain}`);
  });

  test("info has everything the SDK's types promise", async () => {
    const info = await sandbox().getInfo();
    expect(info).toMatchObject({ sandboxId: sandbox().sandboxId, templateId: expect.any(String), state: "running", volumeMounts: [] });
    expect(info.envdVersion).toMatch(/^0\.6\.\d+$/);
    expect(info.cpuCount).toBeGreaterThanOrEqual(1);
    expect(info.memoryMB).toBeGreaterThanOrEqual(256);
    expect(info.lifecycle).toEqual({ onTimeout: "kill", autoResume: false });
    expect(info.endAt.getTime()).toBeGreaterThan(info.startedAt.getTime());
  });

  test("metadata is kept as it was given", async () => {
    expect((await sandbox().getInfo()).metadata).toEqual({ purpose: "e2b tests", "other key": "é=&?" });
  });

  test("environment variables are in every command", async () => {
    expect(await output(sandbox(), "echo $PROJECT")).toBe("roost");
    expect(await output(sandbox(), "echo $PROJECT", { user: "root" })).toBe("roost");
  });

  test("info by id, and under its old name", async () => {
    const { sandboxId } = sandbox();
    const [first, old] = await Promise.all([Sandbox.getInfo(sandboxId), Sandbox.getFullInfo(sandboxId)]);
    expect(first).toEqual(old);
    expect(first.sandboxId).toBe(sandboxId);
  });

  test("a template by its name; info says which", async () => {
    await using own = await ownSandbox({ template: "base" });
    const info = await own.getInfo();
    expect([info.templateId, info.name]).toContain("base");
  });

  test("a template that does not exist is a 404 that names it", async () => {
    const error = await failureOf(Sandbox.create("no-such-template"));
    expect(error).toBeInstanceOf(SandboxError);
    expect(error).toMatchObject({ statusCode: 404, message: expect.stringContaining("no-such-template") });
  });

  test("without a timeout it lives five minutes", async () => {
    await using own = await ownSandbox({ timeoutMs: undefined as never });
    const { startedAt, endAt } = await own.getInfo();
    const livesMs = endAt.getTime() - startedAt.getTime();
    expect(livesMs).toBeGreaterThanOrEqual(5 * minute - 5 * second);
    expect(livesMs).toBeLessThanOrEqual(6 * minute);
  });

  test("a timeout of nothing is refused", async () => {
    expect(await failureOf(Sandbox.create({ timeoutMs: 0 }))).toMatchObject({
      statusCode: 400,
      message: expect.stringMatching(/timeout/i),
    });
  });

  test("lifecycle options are shown in info", async () => {
    await using own = await ownSandbox({ lifecycle: { onTimeout: "pause", autoResume: true } });
    expect((await own.getInfo()).lifecycle).toEqual({ onTimeout: "pause", autoResume: true });
  });

  test("several at once are several sandboxes", async () => {
    const sandboxes = await Promise.all([1, 2, 3].map(() => Sandbox.create()));
    try {
      expect(new Set(sandboxes.map(({ sandboxId }) => sandboxId)).size).toBe(3);
      const names = await Promise.all(sandboxes.map((one) => output(one, "hostname; cat /etc/machine-id")));
      expect(new Set(names).size).toBe(3);
    } finally {
      await Promise.all(sandboxes.map((one) => one.kill()));
    }
  });
});

describe("kill", () => {
  test("true for one that lived, false for one that did not; then it is gone for everybody", async () => {
    const own = await Sandbox.create();
    expect(await own.kill()).toBe(true);
    expect(await own.kill()).toBe(false);
    expect(await own.isRunning()).toBe(false);
    await expect(own.getInfo()).rejects.toBeInstanceOf(SandboxNotFoundError);
    const listed = await Sandbox.list().nextItems();
    expect(listed.map(({ sandboxId }) => sandboxId)).not.toContain(own.sandboxId);
    await expect(own.commands.run("true")).rejects.toBeInstanceOf(SandboxNotFoundError);
    await expect(own.files.read("/etc/hostname")).rejects.toBeInstanceOf(TimeoutError);
  });

  test("by id; of one that never was: false", async () => {
    const own = await Sandbox.create();
    expect(await Sandbox.kill(own.sandboxId)).toBe(true);
    expect(await Sandbox.kill(unknownId)).toBe(false);
  });

  test("a command that runs learns it by the end of its stream", async () => {
    const own = await Sandbox.create();
    const command = await own.commands.run("echo up; sleep 300", { background: true, timeoutMs: 0 });
    await until("its first output", () => command.stdout !== "");
    const failed = failureOf(command.wait());
    await own.kill();
    expect(await failed).toBeInstanceOf(TimeoutError);
    expect((await failed).message).toContain("killed or reached its end of life");
  });

  test("of a paused one: gone as well", async () => {
    const own = await Sandbox.create();
    await own.pause();
    expect(await own.kill()).toBe(true);
    await expect(Sandbox.connect(own.sandboxId)).rejects.toBeInstanceOf(SandboxNotFoundError);
  });
});

describe("connect", () => {
  const sandbox = useE2bSandbox({ timeoutMs: 10 * minute, envs: { GIVEN: "at create" } });
  const endAt = async () => (await sandbox().getInfo()).endAt.getTime();

  test("another handle of the same sandbox", async () => {
    const other = await Sandbox.connect(sandbox().sandboxId);
    expect(other.sandboxId).toBe(sandbox().sandboxId);
    await other.files.write("from-other", "hello");
    expect(await sandbox().files.read("from-other")).toBe("hello");
    expect(await output(other, "echo $GIVEN")).toBe("at create");
  });

  test("a shorter timeout leaves the end as it was, to the digit", async () => {
    const before = await endAt();
    await Sandbox.connect(sandbox().sandboxId, { timeoutMs: minute });
    await Sandbox.connect(sandbox().sandboxId); // the default is shorter, too
    expect(await endAt()).toBe(before);
  });

  test("a longer timeout moves the end", async () => {
    const before = await endAt();
    await Sandbox.connect(sandbox().sandboxId, { timeoutMs: 40 * minute });
    expect(await endAt()).toBeGreaterThan(before + 25 * minute);
  });

  test("connect of a handle gives the handle", async () => {
    expect(await sandbox().connect()).toBe(sandbox());
  });

  test("reboot of one that runs does nothing", async () => {
    const before = await bootId(sandbox());
    await Sandbox.connect(sandbox().sandboxId, { onResume: "reboot" });
    expect(await bootId(sandbox())).toBe(before);
  });

  test("one that never was", async () => {
    await expect(Sandbox.connect(unknownId)).rejects.toBeInstanceOf(SandboxNotFoundError);
  });

  test("the older routes: 200 when it runs, and 409 for a resume of what runs", async () => {
    const { sandboxId } = sandbox();
    const connected = await api("POST", `/sandboxes/${sandboxId}/connect`, { timeout: 60 });
    expect(connected.status).toBe(200);
    expect(await connected.json()).toMatchObject({
      sandboxID: sandboxId,
      envdVersion: expect.any(String),
      envdAccessToken: expect.any(String),
    });
    const resumed = await api("POST", `/sandboxes/${sandboxId}/resume`, { timeout: 60 });
    expect(resumed.status).toBe(409);
    expect(await resumed.json()).toMatchObject({ code: 409, message: expect.any(String) });
  });
});

describe.concurrent("timeout", () => {
  const isGone = async ({ sandboxId }: Sandbox) =>
    Sandbox.getInfo(sandboxId).then(
      () => false,
      (error: unknown) => error instanceof SandboxNotFoundError,
    );

  test("when it is up the sandbox is killed, whatever runs in it", async () => {
    const own = await Sandbox.create({ timeoutMs: 4 * second });
    await own.commands.run("sleep 300", { background: true, timeoutMs: 0 });
    await until("its end", async () => isGone(own));
    expect(await own.isRunning()).toBe(false);
    expect(await own.kill()).toBe(false);
  });

  test("setTimeout may shorten", async () => {
    const own = await Sandbox.create({ timeoutMs: 10 * minute });
    await own.setTimeout(2 * second);
    await until("its end", async () => isGone(own));
  });

  test("setTimeout may extend, also by id", async () => {
    await using own = await ownSandbox({ timeoutMs: minute });
    const before = (await own.getInfo()).endAt.getTime();
    await own.setTimeout(5 * minute);
    const extended = (await own.getInfo()).endAt.getTime();
    expect(extended).toBeGreaterThan(before + 3 * minute);
    await Sandbox.setTimeout(own.sandboxId, 20 * minute);
    expect((await own.getInfo()).endAt.getTime()).toBeGreaterThan(extended + 10 * minute);
  });

  test("setTimeout of nothing ends it", async () => {
    const own = await Sandbox.create({ timeoutMs: 10 * minute });
    await own.setTimeout(0);
    await until("its end", async () => isGone(own));
  });

  test("setTimeout of an unknown sandbox", async () => {
    await expect(Sandbox.setTimeout(unknownId, minute)).rejects.toBeInstanceOf(SandboxNotFoundError);
  });

  test("a refresh moves the end later, never earlier", async () => {
    await using own = await ownSandbox({ timeoutMs: 5 * minute });
    const endAt = async () => (await own.getInfo()).endAt.getTime();
    const before = await endAt();
    expect((await api("POST", `/sandboxes/${own.sandboxId}/refreshes`, { duration: 30 })).status).toBe(204);
    expect(await endAt()).toBe(before);
    expect((await api("POST", `/sandboxes/${own.sandboxId}/refreshes`, { duration: 3_600 })).status).toBe(204);
    expect(await endAt()).toBeGreaterThan(before + 30 * minute);
    expect((await api("POST", `/sandboxes/${own.sandboxId}/refreshes`, { duration: 3_601 })).status).toBe(400);
  });

  test("with onTimeout pause it is paused, and goes on where it was", async () => {
    await using own = await ownSandbox({ timeoutMs: 5 * second, lifecycle: { onTimeout: "pause" } });
    const boot = await bootId(own);
    await until("the pause", async () => (await own.getInfo()).state === "paused");
    await expect(own.commands.run("true")).rejects.toBeInstanceOf(SandboxNotFoundError);
    await own.connect({ timeoutMs: 5 * minute });
    expect(await bootId(own)).toBe(boot);
  });

  test("with keepMemory false only its files are kept", async () => {
    await using own = await ownSandbox({ timeoutMs: 8 * second, lifecycle: { onTimeout: { action: "pause", keepMemory: false } } });
    await own.files.write("kept", "on disk");
    const boot = await bootId(own);
    await until("the pause", async () => (await own.getInfo()).state === "paused");
    await own.connect({ timeoutMs: 5 * minute });
    expect(await own.files.read("kept")).toBe("on disk");
    expect(await bootId(own)).not.toBe(boot);
  });

  test("with autoResume the next request wakes it", async () => {
    await using own = await ownSandbox({ timeoutMs: 5 * second, lifecycle: { onTimeout: "pause", autoResume: true } });
    const boot = await bootId(own);
    await until("the pause", async () => (await own.getInfo()).state === "paused");
    expect(await bootId(own)).toBe(boot);
    const { state, endAt } = await own.getInfo();
    expect(state).toBe("running");
    expect(endAt.getTime() - Date.now()).toBeGreaterThan(4 * minute); // at least five minutes were added
  });
});

/** Boots take both cores for themselves where CPUs are emulated: one after the other. */
describe.concurrent("pause", () => {
  test("true, then false; and it is seen as paused", async () => {
    await using own = await ownSandbox();
    expect(await own.pause()).toBe(true);
    expect(await own.pause()).toBe(false);
    expect((await own.getInfo()).state).toBe("paused");
    expect(await own.isRunning()).toBe(false);
    await expect(own.setTimeout(minute)).rejects.toBeInstanceOf(SandboxNotFoundError); // its time does not run
    await own.connect();
    expect(await own.isRunning()).toBe(true);
  });

  test("what runs goes on: memory, processes, tokens, environment", async () => {
    await using own = await ownSandbox({ envs: { KEPT: "yes" } });
    const counter = await own.commands.run("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.2; done", {
      background: true,
      timeoutMs: 0,
    });
    const boot = await bootId(own);
    await until("the first count", async () => own.files.exists("/tmp/count"));
    await own.pause();
    await counter.disconnect();
    await own.connect();
    expect(await bootId(own)).toBe(boot);
    expect(await output(own, "echo $KEPT")).toBe("yes");
    const before = Number(await own.files.read("/tmp/count"));
    await until("it counts on", async () => Number(await own.files.read("/tmp/count")) > before);
    expect((await own.commands.list()).map(({ pid }) => pid)).toContain(counter.pid);
  });

  test.sequential("keepMemory false boots from the disk; the same handle goes on working", async () => {
    await using own = await ownSandbox({ envs: { KEPT: "yes" } });
    await own.files.write("kept", "on disk");
    const boot = await bootId(own);
    expect(await own.pause({ keepMemory: false })).toBe(true);
    await own.connect();
    expect(await own.files.read("kept")).toBe("on disk");
    expect(await bootId(own)).not.toBe(boot);
    expect(await output(own, "echo $KEPT")).toBe("yes");
  });

  test.sequential("onResume reboot leaves the memory aside that was saved", async () => {
    await using own = await ownSandbox();
    const boot = await bootId(own);
    await output(own, "echo kept > ~/kept && sync");
    await own.pause();
    await Sandbox.connect(own.sandboxId, { onResume: "reboot" });
    expect(await own.files.read("kept")).toBe("kept\n");
    expect(await bootId(own)).not.toBe(boot);
  });

  test("five times in a row, with nothing lost", async () => {
    await using own = await ownSandbox();
    for (let round = 1; round <= 5; round += 1) {
      await output(own, `echo ${round} >> ~/rounds`);
      expect(await own.pause()).toBe(true);
      await own.connect();
      expect(await own.files.read("rounds")).toBe(Array.from({ length: round }, (_, index) => `${index + 1}\n`).join(""));
    }
  });

  test("by its old name, and by id", async () => {
    await using own = await ownSandbox();
    expect(await Sandbox.betaPause(own.sandboxId)).toBe(true);
    expect(await Sandbox.pause(own.sandboxId)).toBe(false);
  });

  test("metadata stays", async () => {
    await using own = await ownSandbox({ metadata: { kept: "yes" } });
    await own.pause();
    expect((await own.getInfo()).metadata).toEqual({ kept: "yes" });
    await own.connect();
    expect((await own.getInfo()).metadata).toEqual({ kept: "yes" });
  });

  test("one that never was", async () => {
    await expect(Sandbox.pause(unknownId)).rejects.toBeInstanceOf(SandboxNotFoundError);
  });

  test("the older route resumes with 201", async () => {
    await using own = await ownSandbox();
    await own.pause();
    const resumed = await api("POST", `/sandboxes/${own.sandboxId}/resume`, { timeout: 120 });
    expect(resumed.status).toBe(201);
    expect(await own.isRunning()).toBe(true);
  });
});
