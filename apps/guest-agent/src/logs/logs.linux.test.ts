import { followGuestLog, guestLogMarkHeader, guestLogPageSchema, type GuestLogCursor, type GuestLogPage } from "@roost/contract";
import { poll } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { collect, runShell } from "../testing/run-process.ts";
import { as, startTestAgent, type TestAgent } from "../testing/test-agent.ts";
import { logBytesMax } from "./process-log.ts";

let agent: TestAgent;
beforeEach(async () => {
  agent = await startTestAgent();
});
afterEach(async () => agent[Symbol.asyncDispose]());

const token = "t".repeat(40);
const get = async (query = "", headers: Record<string, string> = {}) => fetch(`${agent.url}/logs${query}`, { headers });
const init = async (body: object) =>
  fetch(`${agent.url}/init`, { method: "POST", headers: { "x-access-token": token }, body: JSON.stringify(body) });

async function page(query = "", headers: Record<string, string> = {}): Promise<GuestLogPage> {
  const answer = await get(query, headers);
  expect(answer.status).toBe(200);
  return guestLogPageSchema.parse(await answer.json());
}

async function next(cursor: GuestLogCursor | undefined, headers: Record<string, string> = {}) {
  const epoch = encodeURIComponent(cursor?.epochs.at(-1)?.id ?? "");
  return followGuestLog(cursor, await page(`?after=${cursor?.newest ?? 0}&epoch=${epoch}`, headers));
}

const text = ({ records }: Pick<GuestLogPage, "records">) =>
  records.map((record) => ("data" in record ? Buffer.from(record.data, "base64").toString() : `<${record.k}>`)).join("");

test("processes are told with user, folder and tag, their output, their end", async () => {
  await runShell(agent, "echo out; sleep 0.1; echo err >&2; exit 3", { tag: "job", process: { cmd: "", cwd: "/usr" } });
  const { records } = await page();
  expect(records.map(({ k }) => k)).toEqual(["start", "stdout", "stderr", "end"]);
  expect(records[0]).toMatchObject({ user: "user", cwd: "/usr", tag: "job", terminal: false });
  expect(records[0]).toMatchObject({ command: expect.stringContaining("/bin/sh -c echo out") });
  expect(text({ records })).toBe("<start>out\nerr\n<end>");
  expect(records[3]).toMatchObject({ status: "exit status 3", ok: false, timedOut: false });
  expect(new Set(records.map(({ pid }) => pid)).size).toBe(1);
});

test("a terminal's output is not told, that there was one is", async () => {
  const shell = { process: { cmd: "/bin/sh", args: ["-c", "echo drawn"] }, pty: { size: { cols: 80, rows: 24 } } };
  expect((await collect(agent.processes.start(shell, as("root")))).pty).toContain("drawn");
  expect((await page()).records).toMatchObject([{ k: "start", terminal: true }, { k: "end" }]);
});

test("what a process left behind writes after its end is told, too", async () => {
  await runShell(agent, "(sleep 1.5; echo late) & echo early");
  await poll({ what: "the late line", timeoutMs: 30_000 }, async () => (text(await page()).includes("late") ? true : undefined));
  expect(text(await page())).toBe("<start>early\n<end>late\n");
});

test("output nobody fetches is bounded, and the newest stays", async () => {
  await runShell(agent, "seq 1 400000");
  const first = await page();
  expect(followGuestLog(undefined, first).dropped).toBeGreaterThan(0);
  let cursor: GuestLogCursor | undefined;
  let told = "";
  for (;;) {
    const followed = await next(cursor);
    if (followed.fresh.length === 0) break;
    cursor = followed.cursor;
    told += text({ records: [...followed.fresh] });
  }
  expect(told.length).toBeLessThan(logBytesMax + 100);
  expect(told.endsWith("399999\n400000\n<end>")).toBe(true);
});

test("for who knows the token alone, and with numbers that are numbers", async () => {
  expect((await init({ accessToken: token, sandboxId: "sb1" })).status).toBe(204);
  const withToken = { "x-access-token": token };
  expect((await get()).status).toBe(401);
  expect((await get("", withToken)).status).toBe(200);
  for (const query of ["?after=-1", "?after=x", "?bytes_max=1.5"]) expect((await get(query, withToken)).status).toBe(400);
});

test("/metrics says whether there is anything to ask for", async () => {
  const mark = async () => (await fetch(`${agent.url}/metrics`)).headers.get(guestLogMarkHeader);
  const before = await mark();
  await runShell(agent, "true");
  expect(before).toMatch(/ 0$/);
  expect(await mark()).toBe(before?.replace(/0$/, "2"));
});

test("a restore of the same sandbox goes on where its log was; another sandbox, and a template, begin with none", async () => {
  const withToken = { "x-access-token": token };
  const identity = { accessToken: token, sandboxId: "sb1", entropy: "AAAA", timestamp: "2026-11-23T06:20:00.000Z" };
  await runShell(agent, "echo of the template");
  await init(identity);
  await runShell(agent, "echo one", {}, { headers: withToken });
  const first = await next(undefined, withToken);
  expect(text({ records: [...first.fresh] })).toBe("<start>one\n<end>");
  expect(first.dropped).toBe(0);
  await runShell(agent, "echo two", {}, { headers: withToken });
  await init({ ...identity, timestamp: "2026-11-23T06:21:00.000Z" });
  await runShell(agent, "echo three", {}, { headers: withToken });
  expect(text({ records: [...(await next(first.cursor, withToken)).fresh] })).toBe("<start>two\n<end><start>three\n<end>");
  await init({ ...identity, sandboxId: "sb2", timestamp: "2026-11-23T06:22:00.000Z" });
  expect((await page("", withToken)).records).toEqual([]);
  await runShell(agent, "echo four", {}, { headers: withToken });
  await fetch(`${agent.url}/prepare`, { method: "POST", headers: withToken, body: JSON.stringify({ forTemplate: true }) });
  expect((await page()).records).toEqual([]);
});
