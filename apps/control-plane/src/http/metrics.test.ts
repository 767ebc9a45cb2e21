import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { metricsSchema } from "@roost/contract";
import { World } from "../testing/world.ts";
import { listenForMetrics } from "./metrics-listener.ts";
import { ControlPlaneMetrics } from "./metrics.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

async function scrape(): Promise<string> {
  const answer = await world.request("GET", "/metrics");
  expect(answer.status).toBe(200);
  return answer.text();
}

/** Values of a metric, by its labels as written. */
function valuesOf(text: string, name: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return new Map(lines.map((line) => [/\{(.*)\}/.exec(line)?.[1] ?? "", Number(line.split(" ").at(-1))]));
}

test("creates are counted by their result, sandboxes and hosts by state; rounds of loops, too", async () => {
  const { id } = await world.createSandbox();
  expect((await world.request("POST", "/v1/sandboxes", { template: "nosuch" })).status).toBe(404);
  const text = await poll({ what: "a round of the reconciler", timeoutMs: 20_000 }, async () => {
    const now = await scrape();
    return now.includes('loop="reconciler"') ? now : undefined;
  });
  const creates = valuesOf(text, "roost_sandbox_create_duration_seconds_count");
  expect(creates.get('result="ok"')).toBe(1);
  expect(creates.get('result="template_not_found"')).toBe(1);
  expect(valuesOf(text, "roost_sandboxes").get('state="running"')).toBe(1);
  const hosts = valuesOf(text, "roost_hosts");
  expect([...hosts.keys()].sort()).toEqual(["cordoned", "draining", "pending", "ready", "unreachable"].map((state) => `state="${state}"`));
  expect([...hosts.values()].reduce((sum, count) => sum + count, 0)).toBe(1);
  for (const name of ["roost_operations", "roost_deliveries", "roost_builds"]) expect(valuesOf(text, name).size, name).toBe(2);
  expect(valuesOf(text, "roost_audit_entries_waiting").size).toBe(1);
  // Nothing that grows with what users make is a label
  for (const word of [id, world.key, "nosuch"]) expect(text).not.toContain(word);
});

test("only a platform admin's key may scrape the API", async () => {
  const made = await world.request("POST", "/v1/keys", { name: "reader", scopes: ["sandboxes:read", "usage:read"] });
  const { key } = (await made.json()) as { key: string };
  expect((await world.request("GET", "/metrics", undefined, { "x-api-key": key })).status).toBe(403);
  expect((await fetch(`${world.url}/metrics`)).status).toBe(401);
});

test("a listener of its own serves them without a key, and nothing else", async () => {
  const metrics = new ControlPlaneMetrics(
    async () => new Map(),
    () => [],
    {
      counts: async () => [{ of: "host", state: "ready", count: 3 }],
      databaseConnections: () => ({ open: 4, idle: 1, waiting: 2 }),
      clockAheadMs: async () => 1_500,
      auditEntriesWaiting: () => 5,
    },
  );
  const listener = await listenForMetrics(metrics, "127.0.0.1", 0);
  try {
    const url = `http://127.0.0.1:${listener.port}`;
    const text = await (await fetch(`${url}/metrics`)).text();
    expect(valuesOf(text, "roost_hosts").get('state="ready"')).toBe(3);
    expect(valuesOf(text, "roost_database_connections").get('state="waiting"')).toBe(2);
    expect(valuesOf(text, "roost_audit_entries_waiting").get("")).toBe(5);
    expect(valuesOf(text, "roost_database_clock_difference_seconds").get("")).toBe(1.5);
    for (const [method, path] of [
      ["GET", "/v1/sandboxes"],
      ["POST", "/metrics"],
      ["GET", "/metrics/../v1/sandboxes"],
    ] as const) {
      expect((await fetch(url + path, { method })).status, path).toBe(404);
    }
  } finally {
    await listener.close();
    metrics.close();
  }
});

test("a host that was deleted is told of no more, and what the database does not answer is left out, not told as it was", async () => {
  let hosts = [
    { id: "h1", isWatched: true },
    { id: "h2", isWatched: false },
  ];
  let isAway = false;
  const orAway = async <Answer>(answer: Answer): Promise<Answer> => {
    if (isAway) throw new Error("the database is away");
    return answer;
  };
  const metrics = new ControlPlaneMetrics(
    async () => orAway(new Map([["running", 3]] as const)),
    () => hosts,
    {
      counts: async () => orAway([{ of: "host", state: "ready", count: 2 }] as const),
      databaseConnections: () => undefined,
      clockAheadMs: async () => undefined,
      auditEntriesWaiting: () => 0,
    },
  );
  try {
    const before = await metrics.text();
    expect([...valuesOf(before, "roost_host_watched")]).toEqual([
      ['host="h1"', 1],
      ['host="h2"', 0],
    ]);
    expect(valuesOf(before, "roost_sandboxes").get('state="running"')).toBe(3);
    hosts = hosts.slice(0, 1);
    isAway = true;
    const after = await metrics.text();
    expect([...valuesOf(after, "roost_host_watched")]).toEqual([['host="h1"', 1]]);
    for (const name of ["roost_sandboxes", "roost_hosts", "roost_operations"]) expect(valuesOf(after, name).size, name).toBe(0);
    expect(valuesOf(after, "roost_info").size).toBe(1);
    isAway = false;
    expect(valuesOf(await metrics.text(), "roost_hosts").get('state="ready"')).toBe(2);
  } finally {
    metrics.close();
  }
});

test("what a sandbox used is told after it ended, too", async () => {
  const { id } = await world.createSandbox();
  const nowSec = Math.trunc(Date.now() / 1_000);
  world.host.metricPoints = [{ timeUnixSec: BigInt(nowSec - 5), cpuPercent: 50, memoryBytes: 7n, diskBytes: 3n, memoryCacheBytes: 1n }];
  expect((await world.request("DELETE", `/v1/sandboxes/${id}`)).status).toBe(204);
  const answer = metricsSchema.parse(await (await world.request("GET", `/v1/sandboxes/${id}/metrics?range=1h`)).json());
  expect(answer.points).toEqual([{ timestamp_unix: Math.floor((nowSec - 5) / 10) * 10, cpu_pct: 50, mem_bytes: 7, disk_bytes: 3 }]);
  expect(answer.memory_total_bytes).toBe(1_000);
});
