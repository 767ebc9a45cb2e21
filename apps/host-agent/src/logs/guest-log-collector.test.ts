import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { LogEntry } from "@roost/contract";
import type { GetLogsRequest } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { Deferred, poll, silentLogger } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { aSpec, FakeHost } from "../testing/fake-host.ts";
import type { GuestStandIn } from "../testing/guest-stand-in.ts";
import { GuestLogCollector } from "./guest-log-collector.ts";
import { SandboxLog } from "./sandbox-log.ts";

let host: FakeHost;
beforeEach(async () => {
  host = await FakeHost.start();
});
afterEach(async () => host[Symbol.asyncDispose]());

async function create(): Promise<{ readonly id: string; readonly guest: GuestStandIn }> {
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const guest = host.guests.get(spec.sandboxId);
  if (guest === undefined) throw new Error("the sandbox has no guest");
  return { id: spec.sandboxId, guest };
}

async function logs(
  sandboxId: string,
  more: Partial<Omit<GetLogsRequest, "$typeName">> = {},
): Promise<(Omit<LogEntry, "timeMs"> & { timeMs: bigint })[]> {
  return (await host.client.getLogs({ sandboxId, ...more })).entries as never;
}
const messages = async (sandboxId: string, more: Partial<Omit<GetLogsRequest, "$typeName">> = {}) =>
  (await logs(sandboxId, more)).map(({ message }) => message);
const output = async (sandboxId: string) =>
  (await logs(sandboxId)).flatMap(({ fields, message }) => (fields["event_type"] === "stdout" ? [message] : []));

test("the newest of a running sandbox's log is asked for when somebody looks", async () => {
  const { id, guest } = await create();
  guest.output.push("one\ntwo\n");
  expect(await messages(id)).toEqual(["sandbox was created (boot)", "one", "two"]);
  guest.output.push("three\n");
  const entries = await logs(id);
  expect(entries.at(-1)).toMatchObject({ level: "info", message: "three", fields: { logger: "process", event_type: "stdout", pid: "42" } });
  expect(entries[0]).toMatchObject({ fields: { logger: "platform", event_type: "sandbox.created" } });
  expect(await messages(id, { limit: 1, backward: true })).toEqual(["three"]);
  expect(await messages(id, { search: "tw" })).toEqual(["two"]);
  expect(await messages(id, { level: "warn" })).toEqual([]);
  expect(await messages(id, { cursorMs: entries[3]?.timeMs ?? 0n })).toEqual(["three"]);
});

test("what a sandbox wrote last before it was paused without memory, or deleted, is there, and what the platform did with it", async () => {
  const { id, guest } = await create();
  guest.output.push("before the pause\n", "no line end");
  await host.client.pauseSandbox({ sandboxId: id, memory: false });
  expect((await messages(id)).slice(1)).toEqual(["before the pause", "no line end", "sandbox was paused"]);
  await host.client.resumeSandbox({ sandboxId: id });
  host.guests.get(id)?.output.push("x\n", "y\n", "before the end\n"); // its records 1 and 2 are known already
  await host.client.destroySandbox({ sandboxId: id });
  expect((await messages(id)).slice(3)).toEqual([
    "sandbox was paused",
    "sandbox was resumed (boot)",
    "before the end",
    "sandbox was deleted",
  ]);
});

test("a pause with memory asks the guest nothing: what it had not told yet is told after the resume", async () => {
  const { id, guest } = await create();
  guest.output.push("told before\n");
  expect((await messages(id)).slice(1)).toEqual(["told before"]);
  const asked = guest.logsAsked.length;
  guest.output.push("told late\n");
  await host.client.pauseSandbox({ sandboxId: id });
  expect(guest.logsAsked.length).toBe(asked);
  expect((await messages(id)).slice(1)).toEqual(["told before", "sandbox was paused"]);
  await host.client.resumeSandbox({ sandboxId: id });
  host.guests.get(id)?.output.push("told before\n", "told late\n"); // as its memory has them
  await poll({ what: "the late line", timeoutMs: 30_000, intervalMs: 20 }, async () =>
    (await output(id)).includes("told late") ? true : undefined,
  );
  expect(await output(id)).toEqual(["told before", "told late"]);
});

test("why a sandbox was paused or ended is told where somebody gave a reason", async () => {
  const { id } = await create();
  await host.client.pauseSandbox({ sandboxId: id, reason: "its time was up" });
  await host.client.destroySandbox({ sandboxId: id, reason: "nobody\nneeds it" });
  expect((await messages(id)).slice(1)).toEqual(["its time was up", "sandbox was paused", "nobody needs it", "sandbox was deleted"]);
  await host.client.destroySandbox({ sandboxId: "nobody", reason: "x" });
  await expect(logs("nobody")).rejects.toThrow("there is no sandbox");
});

test("the next host agent goes on where this one was", async () => {
  const { id, guest } = await create();
  guest.output.push("one\n");
  expect(await output(id)).toEqual(["one"]);
  await host.endAgent();
  guest.output.push("two\n");
  await host.startAgent();
  expect(await output(id)).toEqual(["one", "two"]);
  expect(guest.logsAsked.at(-1)).toBe(1);
});

test("a guest in which something went on is asked without anybody looking", async () => {
  const { id, guest } = await create();
  guest.output.push("written in the background\n");
  await poll({ what: "the collection", timeoutMs: 30_000, intervalMs: 100 }, () => (guest.logsAsked.length > 0 ? true : undefined));
  expect(await output(id)).toEqual(["written in the background"]);
});

test("the mark of a guest tells whether there is anything to ask for", async () => {
  const page = { epochs: [{ id: "e 1", first: 1 }], after: 0, newest: 3, records: [] };
  const folder = await mkdtemp(join(tmpdir(), "roost-log-"));
  const collector = new GuestLogCollector({
    client: { logs: async () => page },
    target: new SandboxLog(folder, { segmentBytesMax: 1_000, segmentsMax: 1 }),
    signal: new AbortController().signal,
    log: silentLogger,
  });
  expect([collector.isBehind("e 1 3"), collector.isBehind("e 1 0")]).toEqual([true, true]);
  await collector.collect(30_000);
  expect(["e 1 3", "e 1 4", "e 2 3", ""].map((mark) => collector.isBehind(mark))).toEqual([false, true, true, true]);
  await rm(folder, { recursive: true });
});

test("what the platform did while the guest ran has its place among what the guest logged", async () => {
  const { id, guest } = await create();
  guest.outputTimeMs = () => Date.now() - 60_000;
  guest.output.push("before the checkpoint\n");
  await host.client.checkpointSandbox({ sandboxId: id });
  await poll({ what: "the event", timeoutMs: 30_000, intervalMs: 5 }, async () => ((await messages(id)).length === 3 ? true : undefined));
  guest.outputTimeMs = () => Date.now();
  guest.output.push("after it\n");
  expect(await messages(id)).toEqual([
    "sandbox was created (boot)",
    "before the checkpoint",
    expect.stringContaining("sandbox was checkpointed"),
    "after it",
  ]);
  guest.answerLogs = () => undefined; // it is told all the same
  await host.client.checkpointSandbox({ sandboxId: id });
  await poll({ what: "the second event", timeoutMs: 30_000 }, async () => ((await messages(id)).length === 5 ? true : undefined));
});

test("who asks while a collection is under way gets one that began later; all who do share it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-log-"));
  const asked: Deferred<void>[] = [];
  const collector = new GuestLogCollector({
    client: {
      logs: async () => {
        const turn = new Deferred<void>();
        asked.push(turn);
        await turn.promise;
        return { epochs: [{ id: "e", first: 1 }], after: 0, newest: 0, records: [] };
      },
    },
    target: new SandboxLog(folder, { segmentBytesMax: 1_000, segmentsMax: 1 }),
    signal: new AbortController().signal,
    log: silentLogger,
  });
  const until = async (count: number) =>
    poll({ what: `${count} questions`, timeoutMs: 30_000, intervalMs: 1 }, () => (asked.length === count ? true : undefined));
  const first = collector.collect(60_000);
  await until(1);
  const later = [collector.collect(60_000), collector.collect(60_000)];
  asked[0]?.resolve();
  await first;
  await until(2);
  asked[1]?.resolve();
  await Promise.all(later);
  expect(asked).toHaveLength(2);
  await collector.collect(1); // nobody answers: it ends by its deadline
  asked[2]?.resolve();
  await rm(folder, { recursive: true });
});

test("unknown sandboxes and impossible questions are refused", async () => {
  for (const sandboxId of ["nobody", "../../etc", "", "x".repeat(5_000)])
    await expect(logs(sandboxId)).rejects.toThrow("there is no sandbox");
  const { id } = await create();
  await expect(logs(id, { level: "loud" })).rejects.toThrow("level must be");
  await expect(logs(id, { search: "x".repeat(257) })).rejects.toThrow("longer than 256");
  expect(await messages(id, { limit: 4_000_000 })).toHaveLength(1);
});

describe("a hostile guest", () => {
  const record = (more: object) => ({ n: 1, t: 1, pid: 1, k: "stdout", data: "eAo=", ...more });
  const page = (more: object) => JSON.stringify({ epochs: [{ id: "e", first: 1 }], after: 0, newest: 1, records: [record({})], ...more });
  const answers: Record<string, () => string | undefined> = {
    "nothing at all": () => undefined,
    "no JSON": () => "<html>",
    "another shape": () => "[null]",
    "more than a page has": () => `"${"x".repeat(2_000_000)}"`,
    "a record of no kind": () => page({ records: [record({ k: "x" })] }),
    "numbers that are none": () => page({ records: [record({ n: 1e300 })] }),
    "no base64": () => page({ records: [record({ data: "~~~" })] }),
    "an epoch too long": () => page({ epochs: [{ id: "x".repeat(65), first: 1 }] }),
    "no epoch": () => page({ epochs: [] }),
    "nested deeply": () => `${"[".repeat(50_000)}${"]".repeat(50_000)}`,
  };

  test.each(Object.keys(answers))(
    "answers %s: its log has what the platform says, and it is paused and ended like others",
    async (name) => {
      const { id, guest } = await create();
      guest.answerLogs = answers[name] ?? (() => undefined);
      expect(await messages(id)).toEqual(["sandbox was created (boot)"]);
      await host.client.pauseSandbox({ sandboxId: id });
      expect(await messages(id)).toEqual(["sandbox was created (boot)", "sandbox was paused"]);
      await host.client.destroySandbox({ sandboxId: id });
    },
  );

  test("whose texts are no Unicode is shown with replacement characters", async () => {
    const { id, guest } = await create();
    const text = "half a pair: \ud83d";
    const start = { n: 1, t: 1, pid: 1, k: "start", command: text, cwd: text, user: text, tag: text, terminal: false };
    const end = { n: 2, t: 1, pid: 1, k: "end", status: text, ok: true, timedOut: false };
    guest.answerLogs = () => page({ records: [start, end], newest: 2 });
    const shown = "half a pair: \ufffd";
    expect((await logs(id)).slice(1)).toMatchObject([
      { message: `process started: ${shown}`, fields: { command: shown, cwd: shown, user: shown, tag: shown } },
      { message: `process ended: ${shown}`, fields: { status: shown } },
    ]);
  });

  test("that always has more is asked for a bounded number of pages", async () => {
    const { id, guest } = await create();
    let n = 0;
    guest.answerLogs = () => page({ newest: 1_000_000, records: [record({ n: (n += 1) })] });
    expect(await output(id)).toHaveLength(8);
  });

  test("whose numbers lie harms nobody's log but its own", async () => {
    const random = new SeededRandom(20_261_123);
    const number = () => random.integer(40) * (random.integer(9) === 0 ? 1e12 : 1);
    const liar = await create();
    const other = await create();
    other.guest.output.push("fine\n");
    liar.guest.answerLogs = () => {
      const epochs = Array.from({ length: 1 + random.integer(16) }, () => ({ id: `e${random.integer(4)}`, first: number() + 1 }));
      const records = Array.from({ length: random.integer(5) }, () => record({ n: number() + 1, t: number() * 1e6 }));
      return page({ epochs, after: number(), newest: number(), records });
    };
    for (let round = 0; round < 100; round += 1) await host.client.getLogs({ sandboxId: liar.id });
    const times = (await logs(liar.id)).map(({ timeMs }) => timeMs);
    expect(times).toEqual(times.toSorted((one, another) => Number(one - another)));
    expect(await output(other.id)).toEqual(["fine"]);
    await host.client.pauseSandbox({ sandboxId: liar.id });
  });
});
