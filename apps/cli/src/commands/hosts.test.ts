import type { CreateSandboxBody } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const hosts = () => cli.api.sandboxes.hosts;

test("add prints the token alone on standard output", async () => {
  const made = await cli.run(["host", "add", "rack-7", "--tags", "ssd, gpu"]);
  expect(out(made)).toMatch(/^[0-9a-f]{64}\.[0-9a-f]{32}\n$/);
  expect(made.stderr).toContain("works once");
  expect([...hosts().all.values()]).toMatchObject([{ name: "rack-7", tags: ["gpu", "ssd"], state: "pending" }]);
  expect(out(await cli.run(["host", "token", "rack-7"]))).toMatch(/^[0-9a-f]{64}\./);
});

test("ls tells how hosts are, and what others wrote harmlessly", async () => {
  expect((await cli.run(["host", "ls"])).stderr).toContain("no hosts");
  const well = hosts().add("well");
  hosts().add("away", { is_reachable: false });
  hosts().add("drained", {
    state: "draining",
    drain: { mode: "pause", time_started: well.time_created, time_done: well.time_created, problem: null },
  });
  hosts().add("sick", { health: { is_healthy: false, problems: ["evil\u001b[2J"] } });
  const listed = out(await cli.run(["host", "ls"]));
  expect(listed).toMatch(/well +ready +3\/64/);
  expect(listed).toMatch(/away +unreachable/);
  expect(listed).toMatch(/drained +drained/);
  expect(listed).toMatch(/sick +unwell/);
  expect(out(await cli.run(["host", "get", "sick"]))).toContain("evil\\x1b[2J");
  expect(
    out(await cli.run(["host", "ls", "-q"]))
      .trim()
      .split("\n"),
  ).toHaveLength(4);
  expect(JSON.parse(out(await cli.run(["host", "get", "well", "--json"])))).toMatchObject({ id: well.id });
});

test("hosts are named by id, beginning or name; what may be several or none is refused", async () => {
  const { id } = hosts().add("rack-7");
  for (const reference of [id, id.slice(0, 12), "RACK-7"]) expect(out(await cli.run(["host", "cordon", reference]))).toBe(`${id}\n`);
  expect(hosts().all.get(id)?.state).toBe("cordoned");
  hosts().add("other");
  expect(await cli.run(["host", "cordon", "h"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("may be 2 hosts") });
  expect(await cli.run(["host", "uncordon", "none"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("roost host ls") });
});

test("tag, drain and rm do what they say", async () => {
  const { id } = hosts().add("rack-7");
  expect(out(await cli.run(["host", "tag", "rack-7", "ssd", "zone=a"]))).toBe("ssd zone=a\n");
  expect(out(await cli.run(["host", "drain", "rack-7", "--mode", "wait"]))).toBe(`${id}\n`);
  expect(hosts().all.get(id)?.drain?.mode).toBe("wait");
  const moved = await cli.run(["host", "drain", "rack-7", "--mode", "move"]);
  expect(out(moved)).toBe(`${id}\n`);
  expect(moved.stderr).toContain("no other host has these templates and snapshots, which deleting it would lose: snapshot-1");
  expect(hosts().all.get(id)?.drain?.mode).toBe("move");
  expect(await cli.run(["host", "drain", "rack-7", "--mode", "x"])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining("pause, wait, move"),
  });
  expect(out(await cli.run(["host", "rm", "rack-7", "--preview"]))).toContain("sandbox i1 (running, team default)");
  expect(await cli.run(["host", "rm", "rack-7"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("has sandboxes") });
  expect(out(await cli.run(["host", "rm", "rack-7", "--force"]))).toBe(`${id}\n`);
  expect(hosts().all.size).toBe(0);
});

test("rename and assign change what they say", async () => {
  const { id } = hosts().add("rack-7");
  expect(out(await cli.run(["host", "rename", "rack-7", "gpu-1"]))).toBe(`${id}\n`);
  expect(out(await cli.run(["host", "assign", "gpu-1", "gteam"]))).toBe(`${id}\n`);
  expect(hosts().all.get(id)).toMatchObject({ name: "gpu-1", team_id: "gteam" });
  await cli.run(["host", "assign", "gpu-1"]);
  expect(hosts().all.get(id)?.team_id).toBeNull();
});

test("create and run ask for hosts with all the tags that are given", async () => {
  const asked: unknown[] = [];
  const original = cli.api.handlers.http.createSandbox;
  cli.api.handlers.http.createSandbox = (call) => {
    asked.push((call.body as CreateSandboxBody).host_tags);
    return original?.(call);
  };
  await cli.run(["create", "--host-tag", "ssd", "--host-tag", "accelerator=kvm"]);
  await cli.run(["create"]);
  await cli.run(["run", "--host-tag", "ssd", "--", "true"]);
  expect(asked).toEqual([["ssd", "accelerator=kvm"], [], ["ssd"]]);
  expect((await cli.run(["create", "--host-tag", ""])).exitCode).toBe(2);
});
