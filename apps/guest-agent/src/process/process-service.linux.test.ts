import { existsSync, readdirSync, readFileSync } from "node:fs";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Signal, type StreamInputRequestSchema } from "@roost/contract/gen/process/process_pb.js";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { collect, events, pidOf, runShell, until, untilOutput } from "../testing/run-process.ts";
import { as, startTestAgent, type TestAgent } from "../testing/test-agent.ts";

type InputMessage = MessageInitShape<typeof StreamInputRequestSchema>;

let agent: TestAgent;
beforeAll(async () => {
  agent = await startTestAgent();
});
afterAll(async () => {
  expect((await agent.processes.list({})).processes, "processes left by these tests").toEqual([]);
  expect(agent.failures).toEqual([]);
  await agent[Symbol.asyncDispose]();
});

/** pids of a session that are alive, by /proc: what a kill left behind. */
function aliveInGroup(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe("Start", () => {
  test("tells start, then data, then the end", async () => {
    const outcome = await runShell(agent, "echo out; echo err >&2");
    expect(outcome.order[0]).toBe("start");
    expect(outcome.order.at(-1)).toBe("end");
    expect(outcome).toMatchObject({ stdout: "out\n", stderr: "err\n", end: { exitCode: 0, exited: true, status: "exit status 0" } });
    expect(outcome.end.error).toBeUndefined();
  });

  test("passes an exit code on", async () => {
    expect((await runShell(agent, "exit 7")).end).toMatchObject({
      exitCode: 7,
      exited: true,
      status: "exit status 7",
      error: "exit status 7",
    });
  });

  test("tells the signal that ended a process", async () => {
    expect((await runShell(agent, "kill -SEGV $$")).end).toMatchObject({ exitCode: -1, exited: false });
    expect((await runShell(agent, "kill -TERM $$")).end.status).toBe("signal: terminated");
  });

  test("delivers 20 MB whole and in order, the end after them", async () => {
    const outcome = await runShell(agent, "seq 1 2700000");
    expect(outcome.stdout.length).toBeGreaterThan(20_000_000);
    expect(outcome.stdout.startsWith("1\n2\n3\n")).toBe(true);
    expect(outcome.stdout.endsWith("\n2699999\n2700000\n")).toBe(true);
    const lines = outcome.stdout.split("\n");
    expect(lines.length).toBe(2_700_001);
    expect(lines.findIndex((line, index) => line !== String(index + 1))).toBe(2_700_000);
    expect(outcome.order.at(-1)).toBe("end");
  });

  test("keeps bytes that are not UTF-8", async () => {
    const stream = agent.processes.start({ process: { cmd: "printf", args: [String.raw`\377\000\200`] }, stdin: false });
    const chunks: Uint8Array[] = [];
    for await (const { event } of stream) if (event?.event.case === "data") chunks.push(event.event.value.output.value ?? new Uint8Array());
    expect(Buffer.concat(chunks).toString("hex")).toBe("ff0080");
  });

  test("cuts output into pieces of at most 32 KiB", async () => {
    let longest = 0;
    for await (const { event } of agent.processes.start({ process: { cmd: "head", args: ["-c", "1000000", "/dev/zero"] }, stdin: false })) {
      if (event?.event.case === "data") longest = Math.max(longest, event.event.value.output.value?.length ?? 0);
    }
    expect(longest).toBeGreaterThan(0);
    expect(longest).toBeLessThanOrEqual(32 * 1024);
  });

  test("gives a process real pipes: /dev/stdout and /dev/stderr can be opened, by root and by others", async () => {
    for (const user of ["root", "user"]) {
      const outcome = await runShell(
        agent,
        "echo a >/dev/stdout; echo b >/dev/stderr; test -p /dev/stdin || echo no pipe in",
        {},
        as(user),
      );
      expect(outcome).toMatchObject({ stdout: "a\nno pipe in\n", stderr: "b\n" });
    }
  });

  test("without stdin a process reads end of file", async () => {
    expect((await runShell(agent, "cat; echo done")).stdout).toBe("done\n");
  });

  test.each([
    ["a command that does not exist", { cmd: "no-such-program" }, Code.NotFound, "command not found: 'no-such-program'"],
    ["a path that does not exist", { cmd: "/no/such/program" }, Code.NotFound, "command not found"],
    ["a file that is not executable", { cmd: "/etc/passwd" }, Code.PermissionDenied, "permission denied"],
    ["a folder", { cmd: "/tmp" }, Code.PermissionDenied, "permission denied"],
    ["a cwd that does not exist", { cmd: "true", cwd: "/no/such/folder" }, Code.InvalidArgument, "cwd '/no/such/folder' does not exist"],
    ["a cwd that is a file", { cmd: "true", cwd: "/etc/passwd" }, Code.InvalidArgument, "is not a folder"],
    ["a cwd of another user", { cmd: "true", cwd: "~bob" }, Code.InvalidArgument, "~"],
    ["no command", { cmd: "" }, Code.InvalidArgument, "process.cmd is empty"],
    ["NUL in an argument", { cmd: "echo", args: ["a\0b"] }, Code.InvalidArgument, "process.args[0] holds NUL"],
    ["NUL in the environment", { cmd: "echo", envs: { A: "x\0y" } }, Code.InvalidArgument, "holds NUL"],
    ["an environment name with =", { cmd: "echo", envs: { "A=B": "x" } }, Code.InvalidArgument, "holds '='"],
    ["an argument that is too long", { cmd: "echo", args: ["x".repeat(200_000)] }, Code.InvalidArgument, "longer than"],
    [
      "arguments too long together",
      { cmd: "echo", args: Array.from({ length: 30 }, () => "x".repeat(130_000)) },
      Code.InvalidArgument,
      "too long together",
    ],
  ] as const)("refuses %s", async (_what, process, code, message) => {
    await expect(
      collect(agent.processes.start({ process: { ...process, args: [...("args" in process ? process.args : [])] } })),
    ).rejects.toMatchObject({
      code,
      rawMessage: expect.stringContaining(message),
    });
  });

  test("refuses a request without a process", async () => {
    await expect(collect(agent.processes.start({}))).rejects.toMatchObject({ code: Code.InvalidArgument });
  });

  test("looks a program up in the PATH of the request", async () => {
    await expect(collect(agent.processes.start({ process: { cmd: "sh", envs: { PATH: "/nowhere" } } }))).rejects.toMatchObject({
      code: Code.NotFound,
    });
  });

  test("starts twenty at once", async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, async (_unused, index) => runShell(agent, `echo ${index}; exit ${index}`)),
    );
    expect(outcomes.map((outcome) => [outcome.stdout, outcome.end.exitCode])).toEqual(
      outcomes.map((_outcome, index) => [`${index}\n`, index]),
    );
    expect(new Set(outcomes.map((outcome) => outcome.pid)).size).toBe(20);
  });

  test("leaves no descriptor behind", async () => {
    const open = () => readdirSync("/proc/self/fd").length;
    await runShell(agent, "true");
    const before = open();
    for (let round = 0; round < 20; round += 1) await runShell(agent, "echo x; cat");
    for (let round = 0; round < 10; round += 1) await runShell(agent, "echo x", { pty: {} });
    await poll({ what: "descriptors back", timeoutMs: 30_000 }, () => (open() <= before + 1 ? true : undefined));
  });

  test("a background child that holds the pipes does not hold up the end, and survives it", async () => {
    const outcome = await runShell(agent, "(sleep 2; echo late; sleep 20) & echo $! ; exit 3");
    const child = Number(outcome.stdout.split("\n")[0]);
    expect(outcome.end.exitCode).toBe(3);
    expect(existsSync(`/proc/${child}`)).toBe(true);
    await poll({ what: "the child past its late output", timeoutMs: 30_000 }, () =>
      existsSync(`/proc/${child}/task/${child}/children`) && readFileSync(`/proc/${child}/task/${child}/children`, "utf8").trim() !== ""
        ? true
        : undefined,
    );
    expect(existsSync(`/proc/${child}`)).toBe(true);
    process.kill(-outcome.pid, "SIGKILL");
  });
});

describe("users and environment", () => {
  test("a process has all ids of its user, supplementary groups too", async () => {
    const outcome = await runShell(agent, "id -u; id -g; id -G; umask; ulimit -n", {}, as("user"));
    expect(outcome.stdout).toBe("1000\n1000\n1000 2001 2002\n0022\n1024\n");
    expect((await runShell(agent, "id -u; id -G", {}, as("daemon"))).stdout).toBe("1\n1 2001 2002 2003\n");
    expect((await runShell(agent, "id -u; id -G", {}, as("root"))).stdout).toBe("0\n0\n");
  });

  test("the default user is `user`, where there is one", async () => {
    expect((await runShell(agent, "id -u")).stdout).toBe("1000\n");
  });

  test.each(["nobody-here", "Root", "root ", "0", "user\n", "../root", "x".repeat(500)])(
    "user %j is unknown, which is an error",
    async (name) => {
      await expect(runShell(agent, "id -u", {}, as(name))).rejects.toMatchObject({
        code: Code.Unauthenticated,
        rawMessage: expect.stringContaining("invalid username: '"),
      });
    },
  );

  test("a damaged Authorization header is refused", async () => {
    const headers = { authorization: "Basic !!!" };
    await expect(runShell(agent, "id -u", {}, { headers })).rejects.toMatchObject({ code: Code.Unauthenticated });
  });

  test("starts at home; ~ and relative folders are under it", async () => {
    expect((await runShell(agent, "pwd", {}, as("daemon"))).stdout).toBe("/usr/sbin\n");
    expect((await runShell(agent, "pwd", { process: { cmd: "/bin/sh", cwd: "~" } }, as("daemon"))).stdout).toBe("/usr/sbin\n");
    expect((await runShell(agent, "pwd", { process: { cmd: "/bin/sh", cwd: "../share" } }, as("daemon"))).stdout).toBe("/usr/share\n");
    expect((await runShell(agent, "pwd", { process: { cmd: "/bin/sh", cwd: "/etc" } }, as("daemon"))).stdout).toBe("/etc\n");
  });

  test("a home that is missing is replaced by /, unless it was asked for", async () => {
    expect((await runShell(agent, "pwd", {}, as("homeless"))).stdout).toBe("/\n");
    await expect(runShell(agent, "pwd", { process: { cmd: "/bin/sh", cwd: "~" } }, as("homeless"))).rejects.toMatchObject({
      code: Code.InvalidArgument,
    });
  });

  test("enters the folder as the user, not as root", async () => {
    await expect(runShell(agent, "pwd", { process: { cmd: "/bin/sh", cwd: "/root" } }, as("user"))).rejects.toMatchObject({
      code: Code.InvalidArgument,
      rawMessage: expect.stringContaining("EACCES"),
    });
  });

  test("an environment has the login's names, the sandbox's, the request's, and nothing of the agent's", async () => {
    const outcome = await runShell(agent, "env", { process: { cmd: "/bin/sh", envs: { FOO: "b a=r", HOME: "/elsewhere" } } });
    const names = Object.fromEntries(
      outcome.stdout
        .trim()
        .split("\n")
        .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    );
    delete names["PWD"];
    expect(names).toEqual({
      PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: "/elsewhere",
      USER: "user",
      LOGNAME: "user",
      SHELL: "/bin/sh",
      ROOST_SANDBOX: "true",
      E2B_SANDBOX: "true",
      FOO: "b a=r",
    });
  });

  test("is the first to go when memory runs out, has ordinary priority and no inherited descriptor", async () => {
    const outcome = await runShell(agent, "cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat; ls /proc/$$/fd | tr '\\n' ' '");
    expect(outcome.stdout).toMatch(/^100\n0\n0 1 2 \n?/);
  });
});

describe("Connect and List", () => {
  test("List shows a running process until its end", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "cat", args: ["-"], envs: { A: "1" }, cwd: "/etc" }, tag: "listed" }));
    const pid = pidOf(await until(stream, "start"));
    const listed = (await agent.processes.list({})).processes;
    expect(listed).toHaveLength(1);
    expect(listed[0]).toMatchObject({ pid, tag: "listed", config: { cmd: "cat", args: ["-"], envs: { A: "1" }, cwd: "/etc" } });
    await agent.processes.closeStdin({ process: { selector: { case: "pid", value: pid } } });
    await until(stream, "end");
    expect((await agent.processes.list({})).processes).toEqual([]);
  });

  test("a tag selects; a second process with it is refused until the first ended", async () => {
    const request = { process: { cmd: "cat" }, tag: "twice" };
    const selector = { process: { selector: { case: "tag", value: "twice" } } } as const;
    const stream = events(agent.processes.start(request));
    await until(stream, "start");
    await expect(collect(agent.processes.start(request))).rejects.toMatchObject({ code: Code.AlreadyExists });
    await agent.processes.closeStdin(selector);
    await until(stream, "end");
    expect((await runShell(agent, "echo again", { tag: "twice" })).stdout).toBe("again\n");
  });

  test("of two starts with one tag at the same time one wins", async () => {
    const outcomes = await Promise.allSettled([1, 2].map(async () => runShell(agent, "sleep 0.2", { tag: "race" })));
    expect(outcomes.map((outcome) => outcome.status).sort()).toEqual(["fulfilled", "rejected"]);
  });

  test("a tag is free again after a start that failed", async () => {
    await expect(collect(agent.processes.start({ process: { cmd: "no-such" }, tag: "free" }))).rejects.toMatchObject({
      code: Code.NotFound,
    });
    expect((await runShell(agent, "echo ok", { tag: "free" })).stdout).toBe("ok\n");
  });

  test("a second listener gets output from then on, and both get the end", async () => {
    const first = events(agent.processes.start({ process: { cmd: "cat" }, tag: "shared" }));
    const selector = { process: { selector: { case: "tag", value: "shared" } } } as const;
    const say = async (text: string) =>
      agent.processes.sendInput({ ...selector, input: { input: { case: "stdin", value: Buffer.from(text) } } });
    await until(first, "start");
    await say("one\n");
    await untilOutput(first, "one\n");
    const second = events(agent.processes.connect(selector));
    await until(second, "start");
    await say("two\n");
    expect(await untilOutput(second, "two\n")).toBe("two\n");
    await untilOutput(first, "two\n");
    await agent.processes.closeStdin(selector);
    await Promise.all([until(first, "end"), until(second, "end")]);
  });

  test("a disconnect leaves the process alone; who connects after the end gets what nobody heard, and the end", async () => {
    const leaving = new AbortController();
    const stream = events(
      agent.processes.start(
        { process: { cmd: "/bin/sh", args: ["-c", "read line; echo $line; exit 4"] }, tag: "left" },
        { signal: leaving.signal },
      ),
    );
    const pid = pidOf(await until(stream, "start"));
    leaving.abort();
    await expect(stream.next()).rejects.toMatchObject({ code: Code.Canceled });
    const selector = { process: { selector: { case: "pid", value: pid } } } as const;
    // The agent hears of the disconnect soon, not at once: until then the first listener still gets the output.
    await poll({ what: "the connection gone", timeoutMs: 30_000 }, async () => {
      const { value } = await events(agent.processes.connect(selector)).next();
      return value?.event?.event.case === "start" ? true : undefined;
    });
    await agent.processes.sendInput({ ...selector, input: { input: { case: "stdin", value: Buffer.from("hello\n") } } });
    await poll({ what: "its end", timeoutMs: 30_000 }, async () =>
      (await agent.processes.list({})).processes.length === 0 ? true : undefined,
    );
    const outcome = await collect(agent.processes.connect({ process: { selector: { case: "tag", value: "left" } } }));
    expect(outcome.end.exitCode).toBe(4);
    expect(["", "hello\n"]).toContain(outcome.stdout);
    expect(outcome.order.at(-1)).toBe("end");
  });

  test.each([
    ["pid", { case: "pid", value: 4_000_000 }],
    ["tag", { case: "tag", value: "no-such-tag" }],
  ] as const)("every method answers not_found for an unknown %s", async (_kind, selector) => {
    const process = { selector };
    const notFound = { code: Code.NotFound };
    await expect(collect(agent.processes.connect({ process }))).rejects.toMatchObject(notFound);
    await expect(agent.processes.sendSignal({ process, signal: Signal.SIGKILL })).rejects.toMatchObject(notFound);
    await expect(
      agent.processes.sendInput({ process, input: { input: { case: "stdin", value: new Uint8Array(1) } } }),
    ).rejects.toMatchObject(notFound);
    await expect(agent.processes.closeStdin({ process })).rejects.toMatchObject(notFound);
    await expect(agent.processes.update({ process, pty: { size: { cols: 1, rows: 1 } } })).rejects.toMatchObject(notFound);
  });

  test("a missing selector is invalid", async () => {
    await expect(agent.processes.closeStdin({})).rejects.toMatchObject({ code: Code.InvalidArgument });
    await expect(collect(agent.processes.connect({ process: {} }))).rejects.toMatchObject({ code: Code.InvalidArgument });
  });

  test("keepalives come when nothing else does, at the interval the client names", async () => {
    const outcome = await collect(
      agent.processes.start({ process: { cmd: "sleep", args: ["2.5"] }, stdin: false }, { headers: { "keepalive-ping-interval": "1" } }),
    );
    expect(outcome.keepalives).toBe(2);
  });
});

describe("input", () => {
  test("goes to the process in order and is followed by end of file", async () => {
    const stream = agent.processes.start({ process: { cmd: "cat" } });
    const iterator = events(stream);
    const process = { selector: { case: "pid", value: pidOf(await until(iterator, "start")) } } as const;
    const blocks = Array.from({ length: 30 }, (_unused, index) => Buffer.alloc(50_000, String.fromCharCode(97 + (index % 26))));
    const writing = (async () => {
      for (const value of blocks) await agent.processes.sendInput({ process, input: { input: { case: "stdin", value } } });
      await agent.processes.closeStdin({ process });
    })();
    const rest = await collect({ [Symbol.asyncIterator]: () => iterator });
    await writing;
    expect(rest.stdout).toBe(Buffer.concat(blocks).toString());
    expect(rest.end.exitCode).toBe(0);
  });

  test("comes by a stream, too", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "cat" } }));
    const selector = { case: "pid", value: pidOf(await until(stream, "start")) } as const;
    await agent.processes.streamInput(
      (async function* (): AsyncGenerator<InputMessage> {
        yield { event: { case: "start", value: { process: { selector } } } };
        yield { event: { case: "keepalive", value: {} } };
        yield { event: { case: "data", value: { input: { input: { case: "stdin", value: Buffer.from("streamed\n") } } } } };
      })(),
    );
    expect(await untilOutput(stream, "streamed\n")).toBe("streamed\n");
    await agent.processes.closeStdin({ process: { selector } });
    await until(stream, "end");
  });

  test("a stream that does not begin with start is refused", async () => {
    const sent = (async function* (): AsyncGenerator<InputMessage> {
      yield { event: { case: "data", value: { input: { input: { case: "stdin", value: new Uint8Array(1) } } } } };
    })();
    await expect(agent.processes.streamInput(sent)).rejects.toMatchObject({ code: Code.InvalidArgument });
  });

  test("is refused when the process was started without, has closed it, or has ended", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "sleep", args: ["30"] }, stdin: false }));
    const process = { selector: { case: "pid", value: pidOf(await until(stream, "start")) } } as const;
    const input = { input: { case: "stdin", value: Buffer.from("x") } } as const;
    await expect(agent.processes.sendInput({ process, input })).rejects.toMatchObject({ code: Code.FailedPrecondition });
    await expect(agent.processes.sendInput({ process, input: { input: { case: "pty", value: Buffer.from("x") } } })).rejects.toMatchObject({
      code: Code.FailedPrecondition,
    });
    await expect(agent.processes.sendInput({ process })).rejects.toMatchObject({ code: Code.InvalidArgument });
    await expect(agent.processes.closeStdin({ process })).rejects.toMatchObject({ code: Code.FailedPrecondition });
    await expect(agent.processes.update({ process, pty: { size: { cols: 1, rows: 1 } } })).rejects.toMatchObject({
      code: Code.FailedPrecondition,
    });
    await agent.processes.sendSignal({ process, signal: Signal.SIGKILL });
    await until(stream, "end");
    await expect(agent.processes.sendInput({ process, input })).rejects.toMatchObject({ code: Code.NotFound });
  });

  test("that nobody reads is refused before it fills the agent, and the agent lives on", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "sleep", args: ["30"] } }));
    const process = { selector: { case: "pid", value: pidOf(await until(stream, "start")) } } as const;
    const value = Buffer.alloc(1024 * 1024);
    const writes = Array.from({ length: 8 }, async () =>
      agent.processes.sendInput({ process, input: { input: { case: "stdin", value } } }),
    );
    const settled = Promise.allSettled(writes);
    await expect(
      Promise.any(
        writes.map(async (write) =>
          write.then(
            () => Promise.reject(new Error("written")),
            (error: unknown) => error,
          ),
        ),
      ),
    ).resolves.toMatchObject({
      code: Code.ResourceExhausted,
    });
    await agent.processes.sendSignal({ process, signal: Signal.SIGKILL });
    await until(stream, "end");
    expect((await settled).every((write) => write.status === "rejected")).toBe(true);
  });

  test("of a process that ends without reading it: the end, however soon it is known", async () => {
    for (let round = 0; round < 20; round += 1) {
      const stream = events(agent.processes.start({ process: { cmd: "/bin/sh", args: ["-c", "exit 3"] }, stdin: true }));
      const process = { selector: { case: "pid", value: pidOf(await until(stream, "start")) } } as const;
      const input = { input: { case: "stdin", value: new Uint8Array(100_000) } } as const;
      const feeding = (async () => {
        for (;;) await agent.processes.sendInput({ process, input });
      })();
      await expect(feeding).rejects.toMatchObject({ code: Code.NotFound });
      expect(await until(stream, "end")).toMatchObject({ value: { exitCode: 3 } });
    }
  });

  test("of a process that closed it is refused, not lost", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "/bin/sh", args: ["-c", "exec <&-; echo closed; sleep 30"] } }));
    const process = { selector: { case: "pid", value: pidOf(await until(stream, "start")) } } as const;
    await untilOutput(stream, "closed\n");
    const input = { input: { case: "stdin", value: Buffer.from("x") } } as const;
    await expect(agent.processes.sendInput({ process, input })).rejects.toMatchObject({ code: Code.FailedPrecondition });
    await agent.processes.sendSignal({ process, signal: Signal.SIGKILL });
    await until(stream, "end");
  });
});

describe("signals and deadlines", () => {
  test("a signal goes to the whole group", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "/bin/sh", args: ["-c", "sleep 60 & sleep 61 & wait"] }, stdin: false }));
    const pid = pidOf(await until(stream, "start"));
    await poll({ what: "children", timeoutMs: 30_000 }, () =>
      readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").length === 2 ? true : undefined,
    );
    await agent.processes.sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGKILL });
    expect(await until(stream, "end")).toMatchObject({ value: { status: "signal: killed" } });
    await poll({ what: "the group gone", timeoutMs: 30_000 }, () => (aliveInGroup(pid) ? undefined : true));
  });

  test("SIGTERM can be handled", async () => {
    const script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    const stream = events(agent.processes.start({ process: { cmd: "/bin/sh", args: ["-c", script] }, stdin: false }));
    const pid = pidOf(await until(stream, "start"));
    await untilOutput(stream, "ready\n");
    await agent.processes.sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGTERM });
    const rest = await collect({ [Symbol.asyncIterator]: () => stream });
    expect(rest).toMatchObject({ stdout: "caught\n", end: { exitCode: 9 } });
  });

  test("another signal is refused", async () => {
    const stream = events(agent.processes.start({ process: { cmd: "cat" } }));
    const process = { selector: { case: "pid", value: pidOf(await until(stream, "start")) } } as const;
    await expect(agent.processes.sendSignal({ process, signal: Signal.UNSPECIFIED })).rejects.toMatchObject({ code: Code.InvalidArgument });
    await agent.processes.closeStdin({ process });
    await until(stream, "end");
  });

  test("a deadline kills the group and is what the client hears", async () => {
    // Raw, with the deadline only in the header: a client of the library would give up by itself.
    const body = Buffer.from(JSON.stringify({ process: { cmd: "/bin/sh", args: ["-c", "sleep 77 & echo $$; wait"] }, stdin: false }));
    const envelope = Buffer.concat([Buffer.from([0, 0, 0, 0, body.length]), body]);
    const response = await fetch(`${agent.url}/process.Process/Start`, {
      method: "POST",
      headers: { "content-type": "application/connect+json", "connect-timeout-ms": "400" },
      body: envelope,
    });
    const text = await response.text();
    expect(text).toContain("deadline_exceeded");
    const pid = Number(/"pid":(?<pid>\d+)/.exec(text)?.groups?.["pid"]);
    await poll({ what: "the group gone", timeoutMs: 30_000 }, () => (aliveInGroup(pid) ? undefined : true));
    await poll({ what: "an empty list", timeoutMs: 30_000 }, async () =>
      (await agent.processes.list({})).processes.length === 0 ? true : undefined,
    );
  });

  test("a deadline kills although the client left", async () => {
    const leaving = new AbortController();
    const stream = events(
      agent.processes.start({ process: { cmd: "sleep", args: ["78"] }, stdin: false }, { signal: leaving.signal, timeoutMs: 1_500 }),
    );
    const pid = pidOf(await until(stream, "start"));
    leaving.abort();
    await expect(stream.next()).rejects.toThrow(/canceled|aborted|unavailable|unknown/);
    expect(aliveInGroup(pid)).toBe(true);
    await poll({ what: "the group gone", timeoutMs: 30_000 }, () => (aliveInGroup(pid) ? undefined : true));
    await poll({ what: "an empty list", timeoutMs: 30_000 }, async () =>
      (await agent.processes.list({})).processes.length === 0 ? true : undefined,
    );
  });
});

describe("back-pressure", () => {
  test("a reader that stops, stops the process; nothing is lost when it goes on", async () => {
    const body = Buffer.from(
      JSON.stringify({ process: { cmd: "/bin/sh", args: ["-c", "seq 1 4000000; echo end"] }, stdin: false, tag: "slow" }),
    );
    const response = await fetch(`${agent.url}/process.Process/Start`, {
      method: "POST",
      headers: { "content-type": "application/connect+json" },
      body: Buffer.concat([Buffer.from([0, 0, 0, 0, body.length]), body]),
    });
    const reader = response.body?.getReader();
    const first = await reader?.read();
    const pid = Number(/"pid":(?<pid>\d+)/.exec(Buffer.from(first?.value ?? []).toString())?.groups?.["pid"]);
    const written = () => Number(/wchar: (?<bytes>\d+)/.exec(readFileSync(`/proc/${childOf(pid)}/io`, "utf8"))?.groups?.["bytes"]);
    // The process has stopped writing when it wrote nothing between two looks, though it is not at its end.
    let before = -1;
    await poll({ what: "the process stopped", timeoutMs: 20_000, intervalMs: 300 }, () => {
      const now = written();
      const stopped = now > 0 && now === before;
      before = now;
      return stopped ? true : undefined;
    });
    expect(before).toBeLessThan(25_000_000);
    let text = Buffer.from(first?.value ?? []).toString("latin1");
    const parts = [text];
    for (let chunk = await reader?.read(); chunk?.done === false; chunk = await reader?.read())
      parts.push(Buffer.from(chunk.value).toString("latin1"));
    text = parts.join("");
    const output = [...text.matchAll(/"stdout":"(?<data>[^"]+)"/g)]
      .map((match) => Buffer.from(match.groups?.["data"] ?? "", "base64").toString("latin1"))
      .join("");
    const lines = output.split("\n");
    expect(lines.length).toBe(4_000_002);
    expect(lines.findIndex((line, index) => line !== String(index + 1))).toBe(4_000_000);
    expect(lines.slice(-3)).toEqual(["4000000", "end", ""]);
    expect(text).toContain('"end"');
  });
});

function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return children === "" ? pid : Number(children.split(" ")[0]);
}
