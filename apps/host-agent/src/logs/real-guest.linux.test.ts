import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { GuestClient } from "../guest/guest-client.ts";
import { dialTcp } from "../network/dial.ts";
import { GuestLogCollector } from "./guest-log-collector.ts";
import { SandboxLog } from "./sandbox-log.ts";

/** The guest agent as `npm run build -w @roost/guest-agent` makes it. */
const bundle = fileURLToPath(new URL("../../../guest-agent/dist/agent/agent.mjs", import.meta.url));
const why = process.getuid?.() !== 0 ? "the guest agent needs root" : existsSync(bundle) ? undefined : "the guest agent is not built";

describe.skipIf(why !== undefined)(`the log of a real guest agent${why === undefined ? "" : ` (${why})`}`, () => {
  let folder: string;
  let agent: { readonly child: ChildProcess; readonly port: number };
  let log: SandboxLog;
  const ended = new AbortController();

  async function startAgent(): Promise<void> {
    const flags = { port: "0", host: "127.0.0.1", "state-folder": join(folder, "state"), "scan-interval-ms": "0", "log-level": "error" };
    const child = fork(
      bundle,
      Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]),
      { stdio: ["ignore", "ignore", "inherit", "ipc"] },
    );
    const [message] = (await once(child, "message")) as [{ readonly port: number }];
    agent = { child, port: message.port };
  }

  async function endAgent(): Promise<void> {
    const exit = once(agent.child, "exit");
    agent.child.kill("SIGKILL");
    await exit;
  }

  function collector(): GuestLogCollector {
    const client = new GuestClient((_port, options) => dialTcp("127.0.0.1", agent.port, options), null);
    return new GuestLogCollector({ client, target: log, signal: ended.signal, log: silentLogger });
  }

  async function run(script: string): Promise<void> {
    const transport = createConnectTransport({ baseUrl: `http://127.0.0.1:${agent.port}`, httpVersion: "1.1" });
    const user = { headers: { authorization: `Basic ${Buffer.from("root:").toString("base64")}` } };
    const events = createClient(Process, transport).start({ process: { cmd: "/bin/sh", args: ["-c", script] }, stdin: false }, user);
    for await (const { event } of events) if (event?.event.case === "end") return;
  }

  const told = async () =>
    ((await log.query({ limit: 1_000, direction: "forward" })) ?? []).map(({ message, level, fields }) => [
      fields["event_type"],
      level,
      message,
    ]);

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "roost-real-guest-"));
    log = new SandboxLog(join(folder, "log"), { segmentBytesMax: 1_000_000, segmentsMax: 4 });
    await startAgent();
  });
  afterEach(async () => {
    await endAgent();
    await rm(folder, { recursive: true, force: true });
  });

  test("what processes write is told line by line, in whatever pieces it comes", async () => {
    const collecting = collector();
    await run("printf 'one\\ntw'; sleep 0.2; printf 'o\\n'; echo oops >&2; printf 'no end'; exit 4");
    await collecting.collect(30_000);
    const entries = await told();
    expect(entries[0]).toEqual(["start", "info", expect.stringMatching(/^process started: \/bin\/sh -c printf /)]);
    expect(entries.slice(1).filter(([type]) => type === "stdout")).toEqual([
      ["stdout", "info", "one"],
      ["stdout", "info", "two"],
      ["stdout", "info", "no end"],
    ]);
    expect(entries.filter(([type]) => type === "stderr")).toEqual([["stderr", "warn", "oops"]]);
    expect(entries.at(-1)).toEqual(["end", "warn", "process ended: exit status 4"]);
  });

  test("a flood is bounded, and says so; the end of it is there", async () => {
    const collecting = collector();
    await run("seq -w 1 300000 | sed 's/$/ xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/'");
    await collecting.collect(60_000);
    const newest = (await log.query({ limit: 1_000, direction: "backward" })) ?? [];
    expect(newest[1]?.message).toMatch(/^300000 x/);
    const dropped = (await log.query({ limit: 10, direction: "forward", search: "log records were dropped" })) ?? [];
    expect(dropped).toHaveLength(1);
  });

  test("after kill -9 of the agent its successor's log goes on, for the next host agent too, and nothing is told twice", async () => {
    await run("echo one");
    await collector().collect(30_000);
    await endAgent();
    await startAgent();
    await run("echo two");
    await collector().collect(30_000);
    log = new SandboxLog(join(folder, "log"), { segmentBytesMax: 1_000_000, segmentsMax: 4 });
    await run("echo three");
    const collecting = collector();
    await poll({ what: "the third", timeoutMs: 30_000 }, async () => {
      await collecting.collect(30_000);
      return (await told()).some(([, , message]) => message === "three") || undefined;
    });
    expect((await told()).flatMap(([type, , message]) => (type === "stdout" ? [message] : []))).toEqual(["one", "two", "three"]);
  });
});
