import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { execFileSync } from "node:child_process";

import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { startAgentChild } from "./testing/agent-child.ts";
import { collect, events, pidOf, until } from "./testing/run-process.ts";

const token = "a token of the sandbox";
const withToken = { headers: { "x-access-token": token } };
const init = async (url: string, body: unknown) => fetch(`${url}/init`, { method: "POST", body: JSON.stringify(body) });

/** The launcher of an agent: its only child that stays. */
function launcherOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number);
  const launcher = children.find((child) => readlinkSync(`/proc/${child}/exe`).endsWith("/launcher"));
  if (launcher === undefined) throw new Error("the agent has no launcher");
  return launcher;
}

const alive = (pid: number) => readdirSync("/proc").includes(String(pid));

test("after kill -9 the next agent is initialized and closed, knows no process of the former one, and starts new ones", async () => {
  let agent = await startAgentChild();
  try {
    expect((await init(agent.url, { accessToken: token, envVars: { KEPT: "1" }, sandboxId: "sb1" })).status).toBe(204);
    const stream = events(agent.processes.start({ process: { cmd: "sleep", args: ["300"] }, tag: "left", stdin: false }, withToken));
    const orphan = pidOf(await until(stream, "start"));
    const launcher = launcherOf(agent.pid);
    agent = await agent.crashAndRestart();
    await expect(stream.next()).rejects.toThrow(/canceled|aborted|unavailable|unknown/);
    await poll({ what: "the former launcher gone", timeoutMs: 30_000 }, () => (alive(launcher) ? undefined : true));
    expect(alive(orphan)).toBe(true);
    await expect(agent.processes.list({})).rejects.toThrow(/unauthenticated/);
    expect((await agent.processes.list({}, withToken)).processes).toEqual([]);
    await expect(collect(agent.processes.connect({ process: { selector: { case: "pid", value: orphan } } }, withToken))).rejects.toThrow(
      /not_found/,
    );
    const request = { process: { cmd: "/bin/sh", args: ["-c", "echo $KEPT $ROOST_SANDBOX_ID"] }, tag: "left", stdin: false };
    expect((await collect(agent.processes.start(request, withToken))).stdout).toBe("1 sb1\n");
    process.kill(-orphan, "SIGKILL");
  } finally {
    await agent[Symbol.asyncDispose]();
  }
});

test("without its launcher the agent says so and ends with 1, to be started afresh", async () => {
  await using agent = await startAgentChild();
  process.kill(launcherOf(agent.pid), "SIGKILL");
  expect(await poll({ what: "the agent's end", timeoutMs: 30_000 }, agent.exitCode)).toBe(1);
  expect(agent.log()).toContain("the guest agent failed and ends");
});

test("SIGTERM ends it with 0", async () => {
  await using agent = await startAgentChild();
  const stream = events(agent.processes.start({ process: { cmd: "cat" } }));
  await until(stream, "start");
  process.kill(agent.pid, "SIGTERM");
  expect(await poll({ what: "the agent's end", timeoutMs: 30_000 }, agent.exitCode)).toBe(0);
});

test("a setting that is wrong is named, with exit code 2", () => {
  const main = new URL("../dist/agent/agent.mjs", import.meta.url).pathname;
  for (const args of [
    ["--port", "99999"],
    ["--no-such-flag", "1"],
  ]) {
    let failure: { readonly status?: number; readonly stderr?: Buffer } = {};
    try {
      execFileSync(process.execPath, [main, ...args], { stdio: "pipe" });
    } catch (error) {
      failure = error as typeof failure;
    }
    expect(failure.status).toBe(2);
    expect(failure.stderr?.toString()).toMatch(/ROOST_GUEST_PORT|no-such-flag/);
  }
});
