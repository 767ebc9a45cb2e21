import {
  followGuestLog,
  guestLogCommandLengthMax,
  guestLogEpochsMax,
  guestLogPageSchema,
  type GuestLogCursor,
  type GuestLogPage,
  type GuestLogRecord,
} from "@roost/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { exitStatus } from "../process/exit-status.ts";
import { logBytesMax, logRecordsMax, ProcessLog } from "./process-log.ts";

const all = { after: 0, epoch: "", bytesMax: 1e9 };
const output = (log: ProcessLog, text: string, pid = 7) => log.output(pid, "stdout", Buffer.from(text));
const textsOf = (records: readonly GuestLogRecord[]) =>
  records.flatMap((record) => ("data" in record ? [Buffer.from(record.data, "base64").toString()] : []));
const texts = (page: GuestLogPage) => textsOf(guestLogPageSchema.parse(page).records);

const started = { pid: 7, config: { cmd: "/bin/sh", args: ["-c", "echo hi"] }, cwd: "/tmp", user: "user", tag: "t1", hasTerminal: false };

test("a process is told with its start, its output as it came, and its end", () => {
  const log = new ProcessLog("e1");
  log.started(started);
  output(log, "hal");
  log.output(7, "stderr", Buffer.from([0xff, 0xfe]));
  log.ended(7, exitStatus(9), true);
  const page = guestLogPageSchema.parse(log.page(all));
  expect(page).toMatchObject({ epochs: [{ id: "e1", first: 1 }], after: 0, newest: 4 });
  expect(page.records).toMatchObject([
    { n: 1, k: "start", pid: 7, command: "/bin/sh -c echo hi", cwd: "/tmp", user: "user", tag: "t1", terminal: false },
    { n: 2, k: "stdout", pid: 7, data: Buffer.from("hal").toString("base64") },
    { n: 3, k: "stderr", pid: 7, data: Buffer.from([0xff, 0xfe]).toString("base64") },
    { n: 4, k: "end", pid: 7, status: "signal: killed", ok: false, timedOut: true },
  ]);
});

test("who asks after a record gets what came since, and may ask again as long as no later one was asked after", () => {
  const log = new ProcessLog("e1");
  for (const text of ["a", "b", "c"]) output(log, text);
  const asked = { after: 1, epoch: "e1", bytesMax: 1e9 };
  expect([texts(log.page(asked)), texts(log.page(asked))]).toEqual([
    ["b", "c"],
    ["b", "c"],
  ]);
  expect(log.page({ ...asked, after: 3 })).toEqual({ epochs: [{ id: "e1", first: 1 }], after: 3, newest: 3, records: [] });
  expect(log.mark).toBe("e1 3");
});

test("too much is dropped, the oldest first; the numbers show how much", () => {
  const log = new ProcessLog("e1");
  for (let count = 0; count < 20; count += 1) log.output(1, "stdout", Buffer.alloc(logBytesMax / 16, count));
  const page = log.page(all);
  expect(page.records[0]?.n).toBe(5);
  expect(followGuestLog(undefined, page)).toMatchObject({ dropped: 4 });
  const { cursor } = followGuestLog(undefined, log.page({ after: 20, epoch: "e1", bytesMax: 1e9 }));
  for (let count = 0; count < 3 * logRecordsMax; count += 1) output(log, "x");
  expect(followGuestLog(cursor, log.page({ after: 20, epoch: "e1", bytesMax: 1e9 })).dropped).toBe(2 * logRecordsMax);
});

test("a page holds no more than was asked, but one record at least", () => {
  const log = new ProcessLog("e1");
  for (const size of [1_000, 200, 200]) log.output(1, "stdout", Buffer.alloc(size));
  const page = (after: number) => log.page({ after, epoch: "e1", bytesMax: 700 }).records.map(({ n }) => n);
  expect([page(0), page(1)]).toEqual([[1], [2, 3]]);
});

test("a command line is cut", () => {
  const log = new ProcessLog("e1");
  log.started({ ...started, config: { cmd: "c", args: ["x".repeat(100_000), "y"] } });
  const [record] = guestLogPageSchema.parse(log.page(all)).records;
  expect(record).toMatchObject({ command: `c ${"x".repeat(guestLogCommandLengthMax - 2)}` });
});

describe("restores", () => {
  test("another sandbox begins with an empty log, whatever its host asks after", () => {
    const log = new ProcessLog("e1");
    output(log, "secret of the parent");
    log.clear("e2");
    expect(log.page({ after: 0, epoch: "e1", bytesMax: 1e9 }).records).toEqual([]);
    output(log, "child");
    expect(texts(log.page(all))).toEqual(["child"]);
  });

  test("after a resume nothing is told twice, and what the pause found untold is told", () => {
    const log = new ProcessLog("e1");
    for (const text of ["told", "untold"]) output(log, text);
    log.page({ after: 0, epoch: "e1", bytesMax: 1e9 });
    log.beginEpoch("e2");
    output(log, "after");
    expect(texts(log.page({ after: 1, epoch: "e1", bytesMax: 1e9 }))).toEqual(["untold", "after"]);
  });

  test("after a rollback what the host saw of the future counts for nothing", () => {
    const log = new ProcessLog("e1");
    output(log, "before");
    log.beginEpoch("e2"); // saved here; the host had seen records 2 to 50 of e1 before it went back
    output(log, "instead");
    expect(texts(log.page({ after: 50, epoch: "e1", bytesMax: 1e9 }))).toEqual(["instead"]);
  });

  test("an epoch nobody remembers: everything is told, and nothing is taken for lost", () => {
    const log = new ProcessLog("e1");
    for (let count = 0; count < 10; count += 1) output(log, "x");
    const { cursor } = followGuestLog(undefined, log.page(all));
    log.page({ after: 4, epoch: "e1", bytesMax: 1e9 });
    for (let epoch = 2; epoch < 60; epoch += 1) log.beginEpoch(`e${epoch}`);
    expect(followGuestLog(cursor, log.page({ after: 10, epoch: "e1", bytesMax: 1e9 }))).toMatchObject({ dropped: 0, fresh: { length: 6 } });
  });
});

type Step = "output" | "ask" | "lose answer" | "pause" | "roll back";

test("property: over pauses, rollbacks and lost answers, the host hears every record of its timeline once, in order", () => {
  const steps = fc.array(fc.constantFrom<Step>("output", "output", "output", "ask", "lose answer", "pause", "roll back"), {
    maxLength: 80,
  });
  fc.assert(
    fc.property(steps, (script) => {
      // A log that is replayed from its calls is what a restore of the guest's memory makes of it
      let calls: ((log: ProcessLog) => unknown)[] = [];
      let saved = calls;
      let count = 0;
      let timeline: string[] = [];
      let savedTimeline = timeline;
      let cursor: GuestLogCursor | undefined;
      const heard: string[] = [];
      const replay = () => {
        const log = new ProcessLog("start");
        for (const call of calls) call(log);
        return log;
      };
      const call = (one: (log: ProcessLog) => unknown) => (calls = [...calls, one]);
      let restores = 0; // since the host asked: it asks more often than there are epochs to remember
      const restore = () => {
        if ((restores += 1) === guestLogEpochsMax - 2) ask(true);
        const id = `epoch ${(count += 1)}`;
        call((log) => log.beginEpoch(id));
      };
      const ask = (keep: boolean) => {
        const asked = { after: cursor?.newest ?? 0, epoch: cursor?.epochs.at(-1)?.id ?? "", bytesMax: 1e9 };
        const page = replay().page(asked);
        call((log) => log.page(asked));
        if (!keep) return;
        restores = 0;
        const followed = followGuestLog(cursor, guestLogPageSchema.parse(page));
        expect(followed.dropped).toBe(0);
        heard.push(...textsOf(followed.fresh));
        cursor = followed.cursor;
      };
      for (const step of script) {
        if (step === "output") {
          const text = `line ${(count += 1)}`;
          timeline = [...timeline, text];
          call((log) => output(log, text));
        } else if (step === "pause") {
          [saved, savedTimeline] = [calls, timeline];
          restore();
        } else if (step === "roll back") {
          [calls, timeline] = [saved, savedTimeline];
          restore();
        } else ask(step === "ask");
      }
      ask(true);
      expect(new Set(heard).size).toBe(heard.length);
      expect(heard.filter((text) => timeline.includes(text))).toEqual(timeline);
    }),
  );
});
