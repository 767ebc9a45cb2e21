import { appendFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { EventKind } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import type { LogStore } from "../logs/log-store.ts";
import { HostEvents, type HostEvent } from "./host-events.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import { untoldEvents } from "./untold-events.ts";
import { Watchers } from "./watchers.ts";

let dir: string;
const opened: HostEvents[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-events-"));
});
afterEach(async () => {
  for (const events of opened.splice(0)) events.close();
  await rm(dir, { recursive: true, force: true });
});

const path = () => join(dir, "events.ndjson");

function openEvents(): HostEvents {
  const logs = { tell: () => undefined } as unknown as LogStore;
  const events = new HostEvents({ path: path(), watchers: new Watchers<SandboxRecord>(), logs, log: silentLogger });
  events.open();
  opened.push(events);
  return events;
}

const messages = (events: HostEvents, since = "") => events.since(since).map(({ message }) => message);

test("what was emitted is told by the next host agent, however this one ended", async () => {
  const first = openEvents();
  first.emit("sandbox.created", { sandboxId: "i1", message: "one" });
  first.emit("sandbox.paused", { sandboxId: "i1", message: "two", detail: { pause_ms: "12" } });
  const next = openEvents(); // the first was not closed: it was killed
  expect(next.since("")).toEqual(first.since(""));
  expect(next.since("")[1]).toMatchObject({ kind: "sandbox.paused", sandboxId: "i1", detail: { pause_ms: "12" } });
});

test("who has heard of some is told what came after; who names one that is not known is told all", async () => {
  const events = openEvents();
  for (const message of ["one", "two", "three"]) events.emit("template.created", { template: "t", message });
  const [one, , three] = events.since("");
  expect(messages(events, one?.id)).toEqual(["two", "three"]);
  expect(messages(events, three?.id)).toEqual([]);
  expect(messages(events, "something else")).toEqual(["one", "two", "three"]);
});

test("a line that was being written when the host ended is left out, and the next ones are whole", async () => {
  openEvents().emit("sandbox.created", { sandboxId: "i1", message: "one" });
  await appendFile(path(), '{"id":"5c2d');
  const next = openEvents();
  expect(messages(next)).toEqual(["one"]);
  next.emit("sandbox.paused", { sandboxId: "i1", message: "two" });
  expect(messages(openEvents())).toEqual(["one", "two"]);
});

test("the file stays small: the newest are kept", async () => {
  const events = openEvents();
  for (let number = 0; number < 6_000; number += 1) events.emit("template.created", { template: "t", message: String(number) });
  await events.durable();
  expect((await readFile(path(), "utf8")).split("\n").length).toBeLessThan(4_100);
  expect(messages(openEvents())).toEqual(Array.from({ length: 1_000 }, (_, index) => String(5_000 + index)));
});

test("many may wait for the disk at once, also while more happens", async () => {
  const events = openEvents();
  const waiting = Array.from({ length: 50 }, async (_, number) => {
    events.emit("template.created", { template: "t", message: String(number) });
    await events.durable();
  });
  await Promise.all(waiting);
  await events.durable();
  expect(messages(openEvents())).toHaveLength(50);
});

describe("what records say and events do not", () => {
  const sinceMs = 1_000;
  const aRecord = (state: SandboxRecord["state"], more: Partial<SandboxRecord> = {}) =>
    ({
      spec: { sandboxId: "i1" },
      state,
      timeCreatedMs: sinceMs + 1,
      failureReason: null,
      notice: null,
      stopReason: null,
      ...more,
    }) as SandboxRecord;
  const told = (...kinds: readonly EventKind[]): HostEvent[] =>
    kinds.map((kind, index) => ({ id: String(index), timeMs: sinceMs + index, kind, sandboxId: "i1", message: "", detail: {} }));

  test.each<[string, SandboxRecord, HostEvent[], EventKind[]]>([
    ["all told", aRecord("running"), told("sandbox.created"), []],
    ["told, and something else since", aRecord("running"), told("sandbox.created", "sandbox.checkpointed", "sandbox.forked"), []],
    ["a create", aRecord("running"), [], ["sandbox.created"]],
    ["a create that failed", aRecord("failed", { failureReason: "no" }), [], ["sandbox.failed"]],
    ["a pause", aRecord("paused"), told("sandbox.created"), ["sandbox.paused"]],
    ["a pause after a resume", aRecord("paused"), told("sandbox.created", "sandbox.paused", "sandbox.auto_resumed"), ["sandbox.paused"]],
    ["a resume", aRecord("running"), told("sandbox.created", "sandbox.auto_paused"), ["sandbox.resumed"]],
    ["a VM that was lost with what it was", aRecord("failed", { failureReason: "gone" }), told("sandbox.created"), ["sandbox.vm_lost"]],
    ["a VM that was lost, with something kept", aRecord("paused", { notice: "gone" }), told("sandbox.resumed"), ["sandbox.vm_lost"]],
    ["a lost VM that was told", aRecord("paused", { notice: "gone" }), told("sandbox.vm_lost"), []],
    ["a stop", aRecord("stopped", { stopReason: "shutdown" }), told("sandbox.created"), ["sandbox.stopped"]],
    ["one that is changing", aRecord("stopping"), told("sandbox.created"), []],
    ["one of before", aRecord("paused", { timeCreatedMs: sinceMs - 1 }), [], []],
  ])("%s", (_what, record, events, expected) => {
    expect(untoldEvents([record], events, sinceMs).map(({ kind }) => kind)).toEqual(expected);
  });

  test("a deletion: nothing is left of the sandbox", () => {
    expect(untoldEvents([], told("sandbox.created", "sandbox.paused"), sinceMs)).toMatchObject([
      { kind: "sandbox.stopped", sandboxId: "i1" },
    ]);
    expect(untoldEvents([], told("sandbox.created", "sandbox.stopped"), sinceMs)).toEqual([]);
  });
});
