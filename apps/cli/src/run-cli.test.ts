import { randomBytes } from "node:crypto";
import { EventEmitter } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { metricsRanges, sandboxStates } from "@roost/contract";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import packageJson from "../package.json" with { type: "json" };
import { exportShells } from "./platform/e2b-environment.ts";
import { exportShellNames } from "./program/platform-commands.ts";
import { metricsRangeNames, sandboxStateNames } from "./program/sandbox-commands.ts";
import { TestCli } from "./testing/test-cli.ts";
import { version } from "./version.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

const text = (bytes: Buffer) => bytes.toString("utf8");

test("names that help repeats are those that are meant", () => {
  expect(sandboxStateNames).toEqual(sandboxStates);
  expect(metricsRangeNames).toEqual(Object.keys(metricsRanges));
  expect(exportShellNames).toEqual(exportShells);
  expect(version).toBe(packageJson.version);
});

describe("help and usage", () => {
  test("help and version go to standard output and succeed", async () => {
    for (const args of [[], ["--help"], ["exec", "--help"], ["--version"]]) {
      const result = await cli.run(args);
      expect(result.exitCode, args.join(" ")).toBe(0);
      expect(text(result.stdout), args.join(" ")).not.toBe("");
      expect(result.stderr).toBe("");
    }
  });

  test("every command's help has an example", async () => {
    const help = text((await cli.run(["--help"])).stdout);
    const names = [...help.matchAll(/^ {2}([a-z][a-z0-9-]*)(?:\|[a-z]+)? [[<]/gm)].map((match) => match[1] ?? "");
    expect(names.length).toBeGreaterThan(15);
    for (const name of names) expect(text((await cli.run([name, "--help"])).stdout), name).toContain("Examples:");
  });

  test.each([
    [["frobnicate"], "unknown command 'frobnicate'"],
    [["lss"], "Did you mean ls?"],
    [["ls", "--frob"], "unknown option '--frob'"],
    [["get"], "missing required argument 'id'"],
    [["create", "--memory", "lots"], "Write MiB"],
    [["create", "--metadata", "=x"], "KEY=VALUE"],
    [["exec", "-e", "NOT_SET_ANYWHERE", "i1", "true"], "NOT_SET_ANYWHERE is not set"],
    [["get", "../x"], "is not a sandbox id"],
    [["cp", "a", "b"], "must be in a sandbox"],
    [["kill", "i1", "i2", "--process", "1"], "exactly one sandbox"],
    [["shell", "i1"], "needs a terminal"],
    [["completion", "tcsh"], "Allowed choices are bash, zsh, fish"],
  ])("%j is wrong usage", async (args, message) => {
    const result = await cli.run(args);
    expect(result.exitCode).toBe(2);
    expect(result.stderr).toMatch(/^error: /);
    expect(result.stderr).toContain(message);
    expect(text(result.stdout)).toBe("");
  });
});

describe("failures", () => {
  test("an error of the platform is told in one line with a hint, never with a stack", async () => {
    const result = await cli.run(["get", "izzzzzzzzzzzzzzzzzzzz"]);
    expect(result).toMatchObject({ exitCode: 1 });
    expect(result.stderr).toBe("error: there is no sandbox izzzzzzzzzzzzzzzzzzzz\nhint:  `roost ls --all` lists the sandboxes\n");
  });

  test("ROOST_DEBUG shows the stack, --json makes the error JSON", async () => {
    const debug = await cli.run(["get", "izzzzzzzzzzzzzzzzzzzz"], { environment: { ROOST_DEBUG: "1" } });
    expect(debug.stderr).toContain("    at ");
    const json = await cli.run(["get", "izzzzzzzzzzzzzzzzzzzz", "--json"]);
    expect(JSON.parse(json.stderr)).toMatchObject({ error: { code: "sandbox_not_found" } });
    expect(text(json.stdout)).toBe("");
  });

  test("no platform: says where it looked and what to do", async () => {
    const result = await cli.run(["ls"], { environment: { ROOST_URL: "", ROOST_API_KEY: "" } });
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain(`${cli.folder}/endpoint.json`);
    expect(result.stderr).toContain("roost up --detach");
  });

  test("the local platform's key is not sent elsewhere", async () => {
    const endpoint = { formatVersion: 1, url: cli.api.url, version: "0.1.0", pid: 1, startTicks: "1", startedAt: new Date().toISOString() };
    await writeFile(join(cli.folder, "endpoint.json"), JSON.stringify(endpoint));
    await writeFile(join(cli.folder, "api-key"), `${cli.api.apiKey}\n`);
    expect((await cli.run(["ls"], { environment: { ROOST_URL: "", ROOST_API_KEY: "" } })).exitCode).toBe(0);
    const elsewhere = await cli.run(["ls"], { environment: { ROOST_URL: "http://127.0.0.1:1", ROOST_API_KEY: "" } });
    expect(elsewhere.exitCode).toBe(1);
    expect(elsewhere.stderr).toContain("no API key for http://127.0.0.1:1");
  });

  test("NO_COLOR and FORCE_COLOR are heeded", async () => {
    const forced = await cli.run(["get", "izzzzzzzzzzzzzzzzzzzz"], { environment: { FORCE_COLOR: "1" } });
    expect(forced.stderr).toContain("\u001b[31merror:");
    const both = await cli.run(["get", "izzzzzzzzzzzzzzzzzzzz"], { environment: { FORCE_COLOR: "1", NO_COLOR: "1" } });
    expect(both.stderr).not.toContain("\u001b[");
  });
});

describe("sandboxes", () => {
  test("create prints the id alone; get, ls and timeout know the sandbox", async () => {
    const created = await cli.run(["create", "--memory", "1g", "--vcpus", "2", "--metadata", "team=a", "--idle-timeout", "2h"]);
    const id = text(created.stdout).trim();
    expect(id).toMatch(/^i[a-z0-9]{20}$/);
    expect(created.stderr).toBe("");
    const got = JSON.parse(text((await cli.run(["get", id, "--json"])).stdout)) as object;
    expect(got).toMatchObject({ id, memory_mb: 1024, vcpus: 2, timeout_sec: 7200, metadata: { team: "a" } });
    expect(text((await cli.run(["get", id])).stdout)).toContain("2 vCPU, 1 GiB memory, 10 GiB disk");
    expect(text((await cli.run(["timeout", id, "90s"])).stdout)).toContain("1 min 30 s");

    const listed = text((await cli.run(["ls"])).stdout);
    expect(listed).toContain(id);
    expect(listed).toContain("team=a");
    expect(text((await cli.run(["ls", "-q"])).stdout)).toBe(`${id}\n`);
    expect(JSON.parse(text((await cli.run(["ls", "--json", "--metadata", "team=b"])).stdout))).toEqual([]);
  });

  test("the beginning of an id is enough while it is unambiguous", async () => {
    const { id } = await cli.sandbox();
    expect(JSON.parse(text((await cli.run(["get", id.slice(0, 8), "--json"])).stdout))).toMatchObject({ id });
    await cli.sandbox();
    const ambiguous = await cli.run(["get", "i"]);
    expect(ambiguous.exitCode).toBe(1);
    expect(ambiguous.stderr).toContain("is the beginning of 2 sandboxes");
    expect((await cli.run(["get", "zzz"])).stderr).toContain("there is no sandbox zzz");
  });

  test("kill ends all that were named and reports those that failed", async () => {
    const [first, second] = [await cli.sandbox(), await cli.sandbox()];
    const result = await cli.run(["kill", first.id, "izzzzzzzzzzzzzzzzzzzz", second.id]);
    expect(result.exitCode).toBe(1);
    expect(text(result.stdout).trim().split("\n").sort()).toEqual([first.id, second.id].sort());
    expect(result.stderr).toContain("there is no sandbox izzz");
    expect(cli.api.sandboxes.list()).toEqual([]);
  });

  test("metrics and logs", async () => {
    const { id } = await cli.sandbox();
    const metrics = text((await cli.run(["metrics", id])).stdout);
    expect(metrics).toMatch(/cpu +30\.0 % +20\.0 % +30\.0 % +100\.0 %/);
    expect(JSON.parse(text((await cli.run(["metrics", id, "--json"])).stdout))).toMatchObject({ sandbox_id: id });
    expect(text((await cli.run(["logs", id])).stdout)).toBe("booted\n");
  });

  test("logs --follow shows what is new, once, until it is interrupted", async () => {
    const { id } = await cli.sandbox();
    let looks = 0;
    cli.api.handlers.http.getSandboxLogs = ({ response }) => {
      looks += 1;
      response.end(looks === 1 ? "one\n" : "one\ntwo\n");
    };
    const signals = new EventEmitter();
    const result = await cli.run(["logs", "-f", id], { signals, onStdout: (chunk) => chunk.includes("two") && signals.emit("SIGINT") });
    expect(result.exitCode).toBe(130);
    expect(text(result.stdout)).toBe("one\ntwo\n");
    expect(result.stderr).toBe("");
  });
});

describe("exec", () => {
  test("exit codes, both streams, arguments that look like options", async () => {
    const { id } = await cli.sandbox();
    const result = await cli.run(["exec", id, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    expect(result).toMatchObject({ exitCode: 7, stderr: "err\n" });
    expect(text(result.stdout)).toBe("out\n");
    expect(text((await cli.run(["exec", id, "--", "echo", "--json", "-i"])).stdout)).toBe("--json -i\n");
    expect(text((await cli.run(["exec", id, "echo", "--json"])).stdout)).toBe("--json\n");
  });

  test("options may stand before or behind the id, but not behind the command", async () => {
    const { id } = await cli.sandbox();
    const script = ["sh", "-c", "pwd; echo $A; cat"];
    for (const args of [
      ["exec", "-e", "A=1", "--cwd", "/", "-i", id, ...script],
      ["exec", id, "-e", "A=1", "--cwd=/", "-i", ...script],
      ["exec", "-i", id, "--cwd", "/", "-e", "A=1", "--", ...script],
    ]) {
      expect(text((await cli.run(args, { input: "in" })).stdout), args.join(" ")).toBe("/\n1\nin");
    }
    expect((await cli.run(["exec", id, "--frob", "true"])).exitCode).toBe(2);
    expect((await cli.run(["exec", id, "--cwd"])).exitCode).toBe(2);
    expect((await cli.run(["exec", id, "--"])).exitCode).toBe(2);
    expect((await cli.run(["exec", id])).exitCode).toBe(2);
  });

  test("environment and folder", async () => {
    const { id } = await cli.sandbox();
    const args = ["exec", "-e", "A=1=2", "-e", "B", "--cwd", "/", id, "sh", "-c", "echo $A $B $PWD"];
    expect(text((await cli.run(args, { environment: { B: "mine" } })).stdout)).toBe("1=2 mine /\n");
  });

  test("standard input and output are byte-exact", async () => {
    const { id } = await cli.sandbox();
    const data = randomBytes(3_000_000);
    const result = await cli.run(["exec", "-i", id, "cat"], { input: data });
    expect(result.exitCode).toBe(0);
    expect(result.stdout.equals(data)).toBe(true);
    expect((await cli.run(["exec", id, "cat"], { input: data })).stdout).toHaveLength(0);
  });

  test("a command may end without reading its input", async () => {
    const { id } = await cli.sandbox();
    expect(await cli.run(["exec", "-i", id, "sh", "-c", "exit 4"], { input: randomBytes(3_000_000) })).toMatchObject({ exitCode: 4 });
  });

  test("--json writes one line per event, base64 for what is not text", async () => {
    const { id } = await cli.sandbox();
    const result = await cli.run(["exec", "--json", id, "sh", "-c", "printf hi; printf '\\377' >&2; exit 3"]);
    const lines = text(result.stdout).trim().split("\n");
    const events = lines.map((line) => JSON.parse(line) as { type: string });
    expect(events[0]).toMatchObject({ type: "start" });
    expect(events).toContainEqual({ type: "stdout", data: "hi" });
    expect(events).toContainEqual({ type: "stderr", data: "/w==", encoding: "base64" });
    expect(events.at(-1)).toEqual({ type: "exit", exit_code: 3 });
    expect(result.exitCode).toBe(3);
  });

  test("the first interrupt is SIGTERM for the command, the second SIGKILL", async () => {
    const { id } = await cli.sandbox();
    const signals = new EventEmitter();
    const script = "trap 'echo term' TERM; echo ready; while true; do sleep 0.05; done";
    const onStdout = (chunk: string) => /ready|term/.test(chunk) && signals.emit("SIGINT");
    const result = await cli.run(["exec", id, "sh", "-c", script], { signals, onStdout });
    expect(text(result.stdout)).toBe("ready\nterm\n");
    expect(result.exitCode).toBe(130);
  });

  test("SIGTERM is passed on, too, and told apart by the exit code", async () => {
    const { id } = await cli.sandbox();
    const signals = new EventEmitter();
    const result = await cli.run(["exec", id, "sh", "-c", "echo ready; exec sleep 100"], {
      signals,
      onStdout: () => signals.emit("SIGTERM"),
    });
    expect(result.exitCode).toBe(143);
  });

  test("a command that ends well after an interrupt keeps its own code", async () => {
    const { id } = await cli.sandbox();
    const signals = new EventEmitter();
    const script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done";
    const result = await cli.run(["exec", id, "sh", "-c", script], { signals, onStdout: () => signals.emit("SIGINT") });
    expect(result).toMatchObject({ exitCode: 5 });
  });

  test("detached: prints pid and tag, is in ps, and can be killed by tag", async () => {
    const { id } = await cli.sandbox();
    const started = await cli.run(["exec", "--detach", "--tag", "nap", id, "sleep", "100"]);
    expect(text(started.stdout)).toMatch(/^\d+ nap\n$/);
    expect(text((await cli.run(["ps", id])).stdout)).toMatch(/nap +sleep 100/);
    expect((await cli.run(["kill", id, "--process", "nap"])).exitCode).toBe(0);
    await expect.poll(async () => (await cli.run(["ps", id])).stderr).toContain("no processes");
    expect((await cli.run(["kill", id, "--process", "nap"])).stderr).toContain("there is no process nap");
  });

  test("names from the guest cannot send escape sequences to the terminal", async () => {
    const { id } = await cli.sandbox();
    cli.api.handlers.http.listProcesses = () => ({
      processes: [{ pid: 1, tag: "\u001b]0;title\u0007", cmd: "x\u009b2J", args: ["a\nb"] }],
    });
    const shown = text((await cli.run(["ps", id])).stdout);
    expect(shown).toContain("\\x1b]0;title\\x07");
    expect(shown).toContain("x\\x9b2J a\\x0ab");
  });
});

describe("run", () => {
  test("runs in a sandbox of its own, passes the exit code on, deletes the sandbox", async () => {
    const result = await cli.run(["run", "--", "sh", "-c", "echo hi; exit 7"]);
    expect(result).toMatchObject({ exitCode: 7, stderr: "" });
    expect(text(result.stdout)).toBe("hi\n");
    expect(cli.api.sandboxes.list()).toEqual([]);
    expect(text((await cli.run(["run", "-i", "cat"], { input: "in" })).stdout)).toBe("in");
  });

  test("--keep leaves it and tells its id", async () => {
    const result = await cli.run(["run", "--keep", "-e", "A=b", "sh", "-c", "echo $A"]);
    expect(text(result.stdout)).toBe("b\n");
    expect(cli.api.sandboxes.list().map((sandbox) => sandbox.id)).toEqual([result.stderr.trim()]);
  });

  test("a program that is not there: an error, and no sandbox left", async () => {
    const result = await cli.run(["run", "/no/such/program"]);
    expect(result.exitCode).toBe(1);
    expect(cli.api.sandboxes.list()).toEqual([]);
  });

  test("an interrupt while it runs ends the command and deletes the sandbox", async () => {
    const signals = new EventEmitter();
    const result = await cli.run(["run", "sh", "-c", "echo ready; exec sleep 100"], { signals, onStdout: () => signals.emit("SIGINT") });
    expect(result.exitCode).toBe(130);
    expect(cli.api.sandboxes.list()).toEqual([]);
  });

  test("an interrupt while the sandbox is being created finds it by its label and deletes it", async () => {
    const signals = new EventEmitter();
    const create = cli.api.handlers.http.createSandbox;
    cli.api.handlers.http.createSandbox = async (call) => {
      await create?.(call);
      signals.emit("SIGINT");
      await new Promise((resolve) => call.response.once("close", resolve)); // never answers
    };
    const result = await cli.run(["run", "true"], { signals });
    expect(result).toMatchObject({ exitCode: 130, stderr: "" });
    expect(cli.api.sandboxes.list()).toEqual([]);
  });
});
