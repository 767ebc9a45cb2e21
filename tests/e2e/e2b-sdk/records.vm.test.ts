import { Sandbox, SandboxNotFoundError, type SandboxInfo, type SandboxListOpts } from "e2b";
import { beforeAll, describe, expect, test } from "vitest";

import { api, failureOf, output, sandboxTimeoutMs, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();

const unknownId = "izzzzzzzzzzzzzzzzzzzz";

async function idsOf(options: SandboxListOpts = {}): Promise<string[]> {
  const paginator = Sandbox.list(options);
  const found: SandboxInfo[] = [];
  while (paginator.hasNext) found.push(...(await paginator.nextItems()));
  return found.map(({ sandboxId }) => sandboxId);
}

describe("list", () => {
  /** In the order in which they were made; the second is paused. */
  const ids: string[] = [];
  let betweenFirstTwo = new Date();
  beforeAll(async () => {
    for (const [index, extra] of [{ role: "a" }, { role: "b" }, { role: "a b", "odd key": "é & = % + ?" }].entries()) {
      if (index === 1) betweenFirstTwo = new Date();
      const sandbox = await Sandbox.create({ timeoutMs: sandboxTimeoutMs, metadata: { suite: "list", ...extra } });
      ids.push(sandbox.sandboxId);
    }
    await Sandbox.pause(ids[1] ?? "");
  });
  const newestFirst = () => ids.toReversed();
  const suite = { suite: "list" };

  test("running and paused ones, the newest first", async () => {
    expect(await idsOf()).toEqual(newestFirst());
  });

  test("in the other order", async () => {
    expect(await idsOf({ order: "asc" })).toEqual(ids);
    expect(await idsOf({ order: "desc" })).toEqual(newestFirst());
  });

  test.each([1, 2, 3, 100])("in pages of %i, each sandbox once", async (limit) => {
    expect(await idsOf({ limit })).toEqual(newestFirst());
  });

  test("pages know whether another follows, and a token continues elsewhere", async () => {
    const paginator = Sandbox.list({ limit: 2 });
    expect(paginator.hasNext).toBe(true);
    expect((await paginator.nextItems()).map(({ sandboxId }) => sandboxId)).toEqual(newestFirst().slice(0, 2));
    expect(paginator.hasNext).toBe(true);
    const { nextToken = "" } = paginator;
    expect(await idsOf({ limit: 2, nextToken })).toEqual(newestFirst().slice(2));
    await paginator.nextItems();
    expect(paginator.hasNext).toBe(false);
    await expect(paginator.nextItems()).rejects.toThrow("No more items");
  });

  test("a token of one order does not skip or repeat in the middle of changes", async () => {
    const paginator = Sandbox.list({ limit: 1, order: "asc" });
    const [first] = await paginator.nextItems();
    const extra = await Sandbox.create();
    const rest: string[] = [];
    while (paginator.hasNext) rest.push(...(await paginator.nextItems()).map(({ sandboxId }) => sandboxId));
    await extra.kill();
    expect([first?.sandboxId, ...rest]).toEqual([...ids, extra.sandboxId]);
  });

  test.each([
    [["running"], [0, 2]],
    [["paused"], [1]],
    [
      ["running", "paused"],
      [0, 1, 2],
    ],
  ] as const)("state %j", async (state, expected) => {
    expect((await idsOf({ query: { state: [...state] } })).toSorted()).toEqual(expected.map((index) => ids[index]).toSorted());
  });

  test.each<[Record<string, string>, number[]]>([
    [{ suite: "list" }, [0, 1, 2]],
    [{ suite: "list", role: "a" }, [0]],
    [{ role: "a b" }, [2]],
    [{ "odd key": "é & = % + ?" }, [2]],
    [{ role: "A" }, []],
    [{ suite: "list", role: "nobody" }, []],
    [{ nothing: "" }, []],
  ])("metadata %j", async (metadata, expected) => {
    expect((await idsOf({ query: { metadata } })).toSorted()).toEqual(expected.map((index) => ids[index]).toSorted());
  });

  test("filters and paging together", async () => {
    expect(await idsOf({ limit: 1, order: "asc", query: { metadata: suite, state: ["running"] } })).toEqual([ids[0], ids[2]]);
  });

  test("those that started after an instant", async () => {
    expect(await idsOf({ query: { startedAfter: betweenFirstTwo } })).toEqual(newestFirst().slice(0, 2));
    expect(await idsOf({ query: { startedAfter: new Date(Date.now() + 3_600_000) } })).toEqual([]);
  });

  test("by template", async () => {
    expect(await idsOf({ query: { template: "base" } })).toEqual(newestFirst());
    expect(await idsOf({ query: { template: "no-such-template" } })).toEqual([]);
  });

  test("what a list says of a sandbox is what its info says", async () => {
    const [listed] = await Sandbox.list({ query: { metadata: { role: "a" } } }).nextItems();
    const info = await Sandbox.getInfo(ids[0] ?? "");
    expect(info).toMatchObject({ ...listed });
  });

  test.each([
    ["limit=0", "limit"],
    ["limit=101", "limit"],
    ["state=sleeping", "state"],
    ["order=sideways", "order"],
    ["startedAfter=yesterday", "startedAfter"],
    ["nextToken=not-a-token", "nextToken"],
  ])("%s is refused by name", async (query, name) => {
    const answer = await api("GET", `/v2/sandboxes?${query}`);
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ code: 400, message: expect.stringMatching(new RegExp(name, "i")) });
  });

  test("the answer counts those that run", async () => {
    const answer = await api("GET", "/v2/sandboxes?limit=1");
    expect(answer.headers.get("x-total-running")).toBe("2");
    expect(answer.headers.get("x-next-token")).not.toBeNull();
    expect(((await answer.json()) as unknown[]).length).toBe(1);
  });

  test("the older route lists those that run", async () => {
    const listed = (await (await api("GET", "/sandboxes?metadata=suite%3Dlist")).json()) as { sandboxID: string }[];
    expect(listed.map(({ sandboxID }) => sandboxID).toSorted()).toEqual([ids[0], ids[2]].toSorted());
  });
});

describe("metrics", () => {
  const sandbox = useE2bSandbox();

  test("the first ones come by themselves, with everything the types promise", async () => {
    const [metric] = await until("the first metrics", async () => {
      const metrics = await sandbox().getMetrics();
      return metrics.length > 0 && metrics;
    });
    expect(metric?.timestamp.getTime()).toBeGreaterThan(0);
    expect(metric?.cpuCount).toBe((await sandbox().getInfo()).cpuCount);
    expect(metric?.cpuUsedPct).toBeGreaterThanOrEqual(0);
    expect(metric?.memTotal).toBeGreaterThan(200 * 1024 * 1024);
    expect(metric?.memUsed).toBeLessThanOrEqual(metric?.memTotal ?? 0);
    expect(metric?.memCache).toBeGreaterThanOrEqual(0);
    expect(metric?.diskTotal).toBeGreaterThan(1024 ** 3);
    expect(metric?.diskUsed).toBeGreaterThan(0);
  });

  test("of a time that is over there are none", async () => {
    expect(await sandbox().getMetrics({ start: new Date(Date.now() - 7_200_000), end: new Date(Date.now() - 3_600_000) })).toEqual([]);
    expect((await Sandbox.getMetrics(sandbox().sandboxId, { start: new Date(Date.now() - 3_600_000) })).length).toBeGreaterThan(0);
  });

  test("of several at once", async () => {
    const { sandboxId } = sandbox();
    const answer = await api("GET", `/sandboxes/metrics?sandbox_ids=${sandboxId},${unknownId}`);
    expect(answer.status).toBe(200);
    const { sandboxes } = (await answer.json()) as { sandboxes: Record<string, unknown> };
    expect(Object.keys(sandboxes)).toEqual([sandboxId]);
    expect(sandboxes[sandboxId]).toMatchObject({ memTotal: expect.any(Number), timestampUnix: expect.any(Number) });
  });

  test("of one that never was", async () => {
    await expect(Sandbox.getMetrics(unknownId)).rejects.toBeInstanceOf(SandboxNotFoundError);
  });
});

interface LogEntry {
  readonly timestamp: string;
  readonly message: string;
  readonly level: string;
  readonly fields: Readonly<Record<string, string>>;
}

describe("logs", () => {
  const sandbox = useE2bSandbox();
  beforeAll(async () => {
    await output(sandbox(), "echo first marker-1; echo trouble marker-2 >&2; for i in 3 4 5; do echo marker-$i; done");
  });

  const entries = async (query = ""): Promise<LogEntry[]> => {
    const answer = await api("GET", `/v2/sandboxes/${sandbox().sandboxId}/logs?${query}`);
    expect(answer.status).toBe(200);
    return ((await answer.json()) as { logs: LogEntry[] }).logs;
  };

  test("have what commands wrote, in the order of time", async () => {
    const logs = await until("the last line", async () => {
      const now = await entries("limit=1000");
      return now.some(({ message, fields }) => JSON.stringify([message, fields]).includes("marker-5")) && now;
    });
    const text = JSON.stringify(logs);
    for (const marker of [1, 2, 3, 4, 5]) expect(text).toContain(`marker-${marker}`);
    const times = logs.map(({ timestamp }) => Date.parse(timestamp));
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    for (const { level } of logs) expect(["debug", "info", "warn", "error"]).toContain(level);
  });

  test("are searched by text", async () => {
    const found = await entries("search=marker-2");
    expect(found.length).toBeGreaterThan(0);
    for (const entry of found) expect(JSON.stringify(entry)).toContain("marker-2");
    expect(await entries("search=nobody-wrote-this")).toEqual([]);
  });

  test("backward gives the newest first, and a limit is kept", async () => {
    const forward = await entries("limit=1000&direction=forward");
    const backward = await entries("limit=2&direction=backward");
    expect(backward).toEqual(forward.toReversed().slice(0, 2));
  });

  test("a cursor continues where the last page ended", async () => {
    const all = await entries("limit=1000");
    const middle = all[Math.floor(all.length / 2)];
    const after = await entries(`limit=1000&cursor=${Date.parse(middle?.timestamp ?? "")}`);
    expect(after.length).toBeGreaterThan(0);
    expect(after.length).toBeLessThanOrEqual(all.length);
    expect(after.at(-1)).toEqual(all.at(-1));
  });

  test("a level leaves out what is less", async () => {
    for (const { level } of await entries("limit=1000&level=warn")) expect(["warn", "error"]).toContain(level);
  });

  test("as the CLI reads them: each line is JSON with a level", async () => {
    const answer = await api("GET", `/sandboxes/${sandbox().sandboxId}/logs?limit=1000`);
    const { logs, logEntries } = (await answer.json()) as { logs: { timestamp: string; line: string }[]; logEntries: LogEntry[] };
    expect(logs.length).toBeGreaterThan(0);
    expect(logEntries.length).toBe(logs.length);
    for (const { timestamp, line } of logs) {
      expect(Date.parse(timestamp)).toBeGreaterThan(0);
      expect(JSON.parse(line)).toMatchObject({ level: expect.any(String) });
    }
    expect(JSON.stringify(logs)).toContain("marker-1");
  });

  test.each(["limit=-1", "limit=1001", "direction=up", "level=loud", `search=${"x".repeat(257)}`, "cursor=soon"])(
    "%s is refused",
    async (query) => {
      const answer = await api("GET", `/v2/sandboxes/${sandbox().sandboxId}/logs?${query}`);
      expect(answer.status).toBe(400);
      expect(await answer.json()).toMatchObject({ code: 400 });
    },
  );

  test("of one that never was: 404", async () => {
    const answer = await api("GET", `/v2/sandboxes/${unknownId}/logs`);
    expect(answer.status).toBe(404);
    expect(await answer.json()).toMatchObject({ code: 404 });
  });

  test("are kept when the sandbox has ended", async () => {
    const own = await Sandbox.create();
    await output(own, "echo last words");
    await until("the line", async () => (await (await api("GET", `/v2/sandboxes/${own.sandboxId}/logs`)).text()).includes("last words"));
    await own.kill();
    expect(await failureOf(own.getInfo())).toBeInstanceOf(SandboxNotFoundError);
    await until("the line, still", async () =>
      (await (await api("GET", `/v2/sandboxes/${own.sandboxId}/logs`)).text()).includes("last words"),
    );
  });
});
