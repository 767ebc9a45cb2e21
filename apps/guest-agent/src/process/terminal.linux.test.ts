import { Code } from "@connectrpc/connect";
import { Signal } from "@roost/contract/gen/process/process_pb.js";
import { afterAll, beforeAll, expect, test } from "vitest";

import { collect, events, pidOf, runShell, until, untilOutput, type EventStream } from "../testing/run-process.ts";
import { as, startTestAgent, type TestAgent } from "../testing/test-agent.ts";

let agent: TestAgent;
beforeAll(async () => {
  agent = await startTestAgent();
});
afterAll(async () => {
  expect((await agent.processes.list({})).processes, "processes left by these tests").toEqual([]);
  await agent[Symbol.asyncDispose]();
});

async function openShell(script: string, size = { cols: 80, rows: 24 }) {
  const stream: EventStream = events(agent.processes.start({ process: { cmd: "/bin/sh", args: ["-c", script] }, pty: { size } }));
  const pid = pidOf(await until(stream, "start"));
  const process = { selector: { case: "pid", value: pid } } as const;
  const type = async (text: string) => agent.processes.sendInput({ process, input: { input: { case: "pty", value: Buffer.from(text) } } });
  return { stream, pid, process, type };
}

test("a terminal is the controlling one, of the size asked, and owned by the user", async () => {
  const outcome = await runShell(
    agent,
    "tty >/dev/null && echo tty; stty size; stat -c %U:%a $(tty); echo $TERM; test -c /dev/tty && echo </dev/tty >/dev/tty",
    {
      pty: { size: { cols: 132, rows: 43 } },
    },
    as("daemon"),
  );
  expect(outcome.pty).toContain("tty\r\n43 132\r\n");
  expect(outcome.pty).toContain("daemon:620\r\nxterm-256color\r\n");
  expect(outcome.stdout + outcome.stderr).toBe("");
  expect(outcome.end.exitCode).toBe(0);
});

test("without a size it is 80 by 24", async () => {
  expect((await runShell(agent, "stty size", { pty: {} })).pty).toBe("24 80\r\n");
});

test("input is echoed and read", async () => {
  const shell = await openShell('read line; echo "got <$line>"');
  await shell.type("hello\n");
  const outcome = await collect({ [Symbol.asyncIterator]: () => shell.stream });
  expect(outcome.pty).toContain("hello\r\n");
  expect(outcome.pty).toContain("got <hello>\r\n");
});

test("a resize reaches the process by SIGWINCH", async () => {
  const shell = await openShell("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done");
  await untilOutput(shell.stream, "ready");
  await agent.processes.update({ process: shell.process, pty: { size: { cols: 101, rows: 37 } } });
  expect((await collect({ [Symbol.asyncIterator]: () => shell.stream })).pty).toContain("37 101");
});

test.each([
  { cols: 0, rows: 24 },
  { cols: 80, rows: 0 },
  { cols: 70_000, rows: 24 },
  { cols: 80, rows: 4_294_967_295 },
])("a size of $cols by $rows is refused, at start and at resize", async (size) => {
  await expect(collect(agent.processes.start({ process: { cmd: "true" }, pty: { size } }))).rejects.toMatchObject({
    code: Code.InvalidArgument,
  });
  const shell = await openShell("read x");
  await expect(agent.processes.update({ process: shell.process, pty: { size } })).rejects.toMatchObject({ code: Code.InvalidArgument });
  await shell.type("\n");
  await until(shell.stream, "end");
});

test("Ctrl-C interrupts, Ctrl-D ends input", async () => {
  // In the shell's place: an interrupt that comes between its fork and its exec would be the shell's own, and lost
  const interrupted = await openShell("echo ready; exec sleep 3600");
  await untilOutput(interrupted.stream, "ready");
  await interrupted.type("\u0003");
  expect(await until(interrupted.stream, "end")).toMatchObject({ value: { status: "signal: interrupt" } });
  const ended = await openShell("cat; echo over");
  await ended.type("\u0004");
  expect((await collect({ [Symbol.asyncIterator]: () => ended.stream })).pty).toContain("over");
});

test("input of the wrong kind and CloseStdin are refused", async () => {
  const shell = await openShell("read x");
  const input = { input: { case: "stdin", value: Buffer.from("x") } } as const;
  await expect(agent.processes.sendInput({ process: shell.process, input })).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await expect(agent.processes.closeStdin({ process: shell.process })).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await shell.type("\n");
  await until(shell.stream, "end");
});

test("a kill ends a terminal with a job in it", async () => {
  const shell = await openShell("sleep 60 & echo ready; wait");
  await untilOutput(shell.stream, "ready");
  await agent.processes.sendSignal({ process: shell.process, signal: Signal.SIGKILL });
  expect(await until(shell.stream, "end")).toMatchObject({ value: { exited: false } });
});

test("a lot of output comes whole, in pieces of at most 16 KiB", async () => {
  const chunks: Uint8Array[] = [];
  for await (const { event } of agent.processes.start({
    process: { cmd: "/bin/sh", args: ["-c", "stty -onlcr; seq 1 300000"] },
    pty: {},
  })) {
    if (event?.event.case === "data") chunks.push(event.event.value.output.value ?? new Uint8Array());
  }
  expect(Math.max(...chunks.map((chunk) => chunk.length))).toBeLessThanOrEqual(16 * 1024);
  const lines = Buffer.concat(chunks).toString().split("\n");
  expect(lines.length).toBe(300_001);
  expect(lines.findIndex((line, index) => line !== String(index + 1))).toBe(300_000);
});

test("a large paste arrives whole", async () => {
  const shell = await openShell("stty raw -echo; echo ready; head -c 200000 | cksum");
  await untilOutput(shell.stream, "ready");
  await shell.type("0123456789".repeat(20_000));
  const outcome = await collect({ [Symbol.asyncIterator]: () => shell.stream });
  expect(outcome.pty).toContain(" 200000");
});
