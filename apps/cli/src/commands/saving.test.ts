import { FakeError } from "@roost/sdk/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

/** pause, resume, fork, checkpoint, rollback, generations, snapshot, events, and what ls and get show of them. */

let cli: TestCli;
let id: string;
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
});
afterEach(() => cli[Symbol.asyncDispose]());

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const json = async (args: readonly string[]) => JSON.parse(out(await cli.run([...args, "--json"]))) as unknown;

test("pause and resume print the ids of those that changed; a second time is fine", async () => {
  for (let round = 0; round < 2; round += 1) {
    expect(await cli.run(["pause", id.slice(0, 8)])).toMatchObject({ exitCode: 0, stderr: "" });
    expect(await json(["get", id])).toMatchObject({ state: "paused", has_memory: true });
  }
  const resumed = await cli.run(["resume", id, "--idle-timeout", "2h"]);
  expect(out(resumed)).toBe(`${id}\n`);
  expect(await json(["get", id])).toMatchObject({ state: "running", timeout_sec: 7200, start_path: "restore" });
  expect(await json(["pause", id, "--no-memory"])).toMatchObject([{ id, state: "paused", has_memory: false }]);
  expect(await json(["resume", id, "--no-memory"])).toMatchObject([{ id, state: "running", start_path: "boot" }]);
});

test("several are changed whatever becomes of one of them", async () => {
  const second = await cli.sandbox();
  const result = await cli.run(["pause", id, "izzzzzzzzzzzzzzzzzzzz", second.id]);
  expect(result.exitCode).toBe(1);
  expect(out(result).trim().split("\n").sort()).toEqual([id, second.id].sort());
  expect(result.stderr).toContain("there is no sandbox izzz");
});

test("what a resume has to say is said", async () => {
  await cli.run(["pause", id]);
  const sandbox = cli.api.sandboxes.get(id);
  sandbox.record = { ...sandbox.record, notice: "the VM ended\u001b[2J; it is back at generation 1" };
  expect((await cli.run(["resume", id])).stderr).toBe(`${id}: the VM ended\\x1b[2J; it is back at generation 1\n`);
  const listed = await cli.run(["ls"]);
  expect(listed.stderr).toContain("back at generation 1");
  expect(out(await cli.run(["get", id]))).toMatch(/notice +the VM ended/);
});

test("a memory image that cannot be restored: what can be done is in the hint", async () => {
  await cli.run(["pause", id]);
  cli.api.handlers.http.resumeSandbox = () => {
    throw new FakeError("image_incompatible", "the CPU is another");
  };
  const result = await cli.run(["resume", id]);
  expect(result).toMatchObject({ exitCode: 1 });
  expect(result.stderr).toContain("error: the CPU is another\nhint:  `roost resume ID --no-memory`");
});

test("checkpoint, generations and rollback", async () => {
  expect((await cli.run(["generations", id])).stderr).toContain("no generations yet");
  expect(out(await cli.run(["checkpoint", id]))).toBe("1\n");
  expect(await json(["checkpoint", id])).toMatchObject({ generation: { number: 2 }, sandbox: { id } });
  const table = out(await cli.run(["generations", id]));
  expect(table).toMatch(/2\* +checkpoint +memory, disk +4(?:\.0)? MiB/);
  expect(out(await cli.run(["rollback", id, "1"]))).toBe(`${id} is back at generation 1\n`);
  expect(await json(["generations", id])).toMatchObject([{ number: 2 }, { number: 1, is_current: true }]);
  const missing = await cli.run(["rollback", id, "7"]);
  expect(missing).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("`roost generations ID`") as string });
  expect((await cli.run(["rollback", id, "last"])).exitCode).toBe(2);
});

test("fork prints the children's ids, and fails when one of them did", async () => {
  const one = await cli.run(["fork", id]);
  expect(one).toMatchObject({ exitCode: 0, stderr: "" });
  expect(out(one)).toMatch(/^i[a-z0-9]{20}\n$/);
  cli.api.sandboxes.saving.failingChildren.set(1, new FakeError("capacity_exhausted", "no room"));
  const three = await cli.run(["fork", id, "-n", "3", "--metadata", "try=2"]);
  expect(three).toMatchObject({ exitCode: 1, stderr: "warning: a child failed: no room\n" });
  const children = out(three).trim().split("\n");
  expect(children).toHaveLength(2);
  expect(await json(["get", children[0] ?? ""])).toMatchObject({ metadata: { try: "2" } });
  expect(await json(["fork", id])).toMatchObject([{ sandbox: { state: "running" } }]);
  expect((await cli.run(["fork", id, "-n", "101"])).exitCode).toBe(1);
});

test("snapshots from their making to their end", async () => {
  expect((await cli.run(["snapshot", "ls"])).stderr).toContain("no snapshots");
  expect(out(await cli.run(["snapshot", "create", id.slice(0, 6), "trained"]))).toBe("trained\n");
  expect(await json(["snapshot", "create", id, "files", "--no-memory"])).toMatchObject({ name: "files", has_memory: false });
  expect(out(await cli.run(["snapshot", "ls"]))).toMatch(/trained +memory, disk +1 +512 MiB +12(?:\.0)? MiB .* i[a-z0-9]{20}/);
  expect(out(await cli.run(["snapshot", "ls", "-q"]))).toBe("files\ntrained\n");
  const taken = await cli.run(["snapshot", "create", id, "trained"]);
  expect(taken).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("`roost snapshot ls`") as string });
  const user = out(await cli.run(["create", "-t", "trained"])).trim();
  const removed = await cli.run(["snapshot", "rm", "trained", "files", "nothere"]);
  expect(removed).toMatchObject({ exitCode: 1 });
  expect(out(removed)).toBe("files\n");
  expect(removed.stderr).toContain(user);
  expect(removed.stderr).toContain("nothere");
  await cli.run(["kill", user]);
  expect(await json(["snapshot", "rm", "trained"])).toEqual({ deleted: ["trained"] });
  expect((await cli.run(["snapshot"])).exitCode).toBe(2);
  expect((await cli.run(["snapshot", "frob"])).stderr).toContain("unknown command 'frob'");
});

test("events, of all and of one, at most so many", async () => {
  expect((await cli.run(["events"])).stderr).toContain("nothing happened");
  await cli.run(["pause", id]);
  await cli.run(["resume", id]);
  cli.api.sandboxes.saving.happen("template.reimaged", null, "made anew\u0007");
  const shown = out(await cli.run(["events"]));
  expect(shown.split("\n").slice(1, 4).join("\n")).toMatch(/template\.reimaged[^]*made anew\\x07[^]*sandbox\.resumed[^]*sandbox\.paused/);
  expect(await json(["events", id])).toMatchObject([{ kind: "sandbox.resumed", sandbox_id: id }, { kind: "sandbox.paused" }]);
  expect(await json(["events", "--limit", "1"])).toHaveLength(1);
  expect(await json(["events", "--limit", "0"])).toEqual([]);
});

test("create takes what makes a sandbox sleep well; ls and get show it", async () => {
  const made = out(await cli.run(["create", "--auto-resume", "--checkpoint-interval", "5m", "--idle-timeout", "10m"])).trim();
  expect(await json(["get", made])).toMatchObject({ auto_resume: true, checkpoint_interval_sec: 300, timeout_sec: 600 });
  await cli.run(["pause", made]);
  const shown = out(await cli.run(["get", made]));
  expect(shown).toMatch(/generation +1 \(memory and disk\)/);
  expect(shown).toMatch(/checkpoints +every 5 min/);
  expect(shown).toMatch(/auto-resume +yes/);
  expect(shown).toMatch(/start path +restore/);
  expect(out(await cli.run(["ls"]))).toMatch(new RegExp(`${made} +paused +base +1 +512 MiB +restore +1 `));
  expect(out(await cli.run(["exec", made, "echo", "awake"]))).toBe("awake\n");
  expect(await json(["get", made])).toMatchObject({ state: "running" });
});

test("down: what should become of the sandboxes can be asked in one way only, and of a running platform only", async () => {
  const both = await cli.run(["down", "--pause", "--stop-sandboxes"]);
  expect(both).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("exclude each other") as string });
  const none = await cli.run(["down", "--pause"]);
  expect(none).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("only a running one can pause its sandboxes") as string });
});
