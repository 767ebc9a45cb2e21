import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { poll, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { Guest } from "../../guest/guest.ts";
import { FakeGuest } from "../../testing/fake-guest.ts";
import { FakeHost } from "../../testing/fake-host.ts";
import { startAndAwait } from "./start-command.ts";

let fake: FakeGuest;
let guest: Guest;
let folder: string;
beforeEach(async () => {
  fake = new FakeGuest();
  const port = await fake.listen();
  const host = new FakeHost("host-1", () => port);
  host.add({ sandboxId: "s" });
  fake.substitute = (asked) => ({ cmd: "/bin/sh", args: ["-c", asked.args[4] ?? ""] });
  guest = new Guest({ sandboxId: "s", accessToken: "", vmKey: "" }, host.tunnels);
  folder = await mkdtemp(join(tmpdir(), "roost-start-command-"));
});
afterEach(async () => {
  guest.close();
  await fake.close();
  await rm(folder, { recursive: true, force: true });
});

async function start(startCommand: string, readyCommand: string, signal = new AbortController().signal): Promise<string[]> {
  const lines: string[] = [];
  const onLine = async (line: string) => void lines.push(line);
  await startAndAwait(
    guest,
    { user: "", workdir: "", envs: { F: folder }, startCommand, readyCommand },
    { signal, log: silentLogger, onLine },
  );
  return lines;
}

test("it is ready when the ready command exits with 0, and runs on", async () => {
  const lines = await start(
    "echo starting; touch $F/started; sleep 1000",
    "test -e $F/again || { test -e $F/started && touch $F/again; exit 1; }",
  );
  expect(lines).toEqual(["starting"]);
  expect(existsSync(join(folder, "again"))).toBe(true);
  expect(fake.runningPids.length).toBe(1);
});

test("one that ends with an error is said, with what it printed", async () => {
  const failure = await start("echo no port >&2; exit 3", "exit 1").catch((error: unknown) => error);
  expect(failure).toMatchObject({
    code: "build_failed",
    message: expect.stringMatching(/^the start command .* ended: exit status 3[^]*no port/) as string,
  });
  await expect(start("exit 4", "")).rejects.toMatchObject({ code: "build_failed" });
});

test("one that ends with 0 has started something", async () => {
  await start("touch $F/daemon", "test -e $F/daemon");
  await start("true", "");
});

test("without a start command the ready command alone counts", async () => {
  await start("", "test -d $F");
  await start("", "");
});

test("whoever waits can go, and the ready command with him", async () => {
  const abort = new AbortController();
  const waiting = start("", "touch $F/tried; sleep 1000", abort.signal);
  waiting.catch(() => undefined);
  await poll({ what: "the ready command", timeoutMs: 30_000 }, () => (existsSync(join(folder, "tried")) ? true : undefined));
  abort.abort(new Error("gone"));
  await expect(waiting).rejects.toThrow("gone");
  await poll({ what: "the end of the ready command", timeoutMs: 30_000 }, () => (fake.runningPids.length === 0 ? true : undefined));
});
