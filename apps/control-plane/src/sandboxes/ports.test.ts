import { networkPolicySchema, newSandboxId, type SandboxState } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { insertSandbox, type ObservedSandbox } from "../db/sandboxes.ts";
import { PortKeys } from "../proxy/port-keys.ts";
import { PortUrls, type PortUrlOptions } from "../proxy/port-urls.ts";
import { own } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Ports } from "./ports.ts";
import { SandboxRecords } from "./records.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

const now = new Date("2026-01-02T03:04:05.678Z");
const observed = (id: string, generation: number, state: SandboxState): ObservedSandbox => ({
  ...plainSandbox,
  id,
  hostId: "host-1",
  state,
  generation,
  failureReason: null,
  stopReason: null,
  vmExit: null,
  versions: {},
  timeCreated: now,
  timeStarted: now,
  timeLastActive: now,
  startPath: null,
  currentGeneration: null,
  hasMemory: false,
  timePaused: null,
  notice: null,
});

async function make(more: Partial<Parameters<typeof insertSandbox>[1]> = {}): Promise<string> {
  const id = newSandboxId();
  await insertSandbox(database.db, { ...plainSandbox, id, hostId: "host-1", timeCreated: now, ...more });
  return id;
}

/** One control plane's view of records; both on the same database. */
function controlPlane() {
  const told: string[] = [];
  const records = new SandboxRecords({
    database,
    log: silentLogger,
    onEnded: (id) => void told.push(`ended ${id}`),
    onChanged: (id) => void told.push(`changed ${id}`),
    onPausing: (id) => void told.push(`pausing ${id}`),
  });
  const urls = new PortUrls({ port: 7070, tlsPort: 7443, isTls: false });
  return { told, records, ports: new Ports({ database, records, keys: new PortKeys("00".repeat(32)), urls }) };
}

describe("changes", () => {
  test("of many ports at the same moment, by two control planes, all hold", async () => {
    const id = await make();
    const [one, two] = [controlPlane(), controlPlane()];
    const numbers = Array.from({ length: 20 }, (_, index) => 3_000 + index);
    await Promise.all(numbers.map(async (port, index) => (index % 2 === 0 ? one : two).ports.setPort(own(id), port, "public")));
    expect(Object.keys((await one.ports.get(own(id))).ports).map(Number)).toEqual(numbers);
  });

  test("of which each makes another token, the last one's holds, and each makes older URLs worthless", async () => {
    const id = await make({ trafficToken: "first" });
    const { ports, records } = controlPlane();
    const tokens = await Promise.all(Array.from({ length: 5 }, async () => (await ports.rotate(own(id))).token));
    const row = await records.get(own(id));
    expect(tokens).toContain(row.traffic_token);
    expect(new Set(tokens).size).toBe(5);
    expect(row.port_key_number).toBe(6);
  });

  test("keep what E2B's policy said of ports of which nothing else is said", async () => {
    const id = await make({ network: networkPolicySchema.parse({ is_public: true }) });
    const { ports } = controlPlane();
    expect(await ports.get(own(id))).toMatchObject({ access: "public", ports: {} });
    await ports.setPort(own(id), 22, "private");
    expect(await ports.get(own(id))).toMatchObject({ access: "public", ports: { 22: "private" } });
    expect((await ports.token(own(id))).token).not.toBe("");
  });

  test("of another team's sandbox, or of one that works for a build, are of none", async () => {
    const id = await make();
    const { ports } = controlPlane();
    await expect(ports.setPort({ id, team_id: "g0000000000000000other" }, 22, "public")).rejects.toMatchObject({
      code: "sandbox_not_found",
    });
    await expect(ports.set(own(newSandboxId()), { access: "public", ports: {}, mask_request_host: null })).rejects.toMatchObject({
      code: "sandbox_not_found",
    });
  });
});

test("every control plane hears that a sandbox is about to be paused, whichever writes it down first", async () => {
  const id = await make();
  const [one, two] = [controlPlane(), controlPlane()];
  await one.records.observe(observed(id, 1, "running"));
  one.told.length = 0;
  await one.records.observe(observed(id, 2, "pausing"));
  await two.records.observe(observed(id, 2, "pausing"));
  expect(one.told).toEqual([`pausing ${id}`, `changed ${id}`]);
  expect(two.told).toEqual([`pausing ${id}`, `changed ${id}`]);
});

describe("where a port is", () => {
  const base: PortUrlOptions = { port: 7070, tlsPort: 7443, isTls: false };
  test.each<[Partial<PortUrlOptions>, string]>([
    [{}, "http://80-i1.sandbox.localhost:7070"],
    [{ isTls: true }, "https://80-i1.sandbox.localhost:7443"],
    [{ port: 80 }, "http://80-i1.sandbox.localhost"],
    [{ isTls: true, tlsPort: 443, domain: "s.example.org" }, "https://80-i1.s.example.org"],
    [{ domain: "s.example.org" }, "http://80-i1.s.example.org:7070"],
    [{ domain: "s.example.org:8443", isTls: true }, "https://80-i1.s.example.org:8443"],
    [{ domain: "s.example.org", publicUrl: "https://api.example.org" }, "https://80-i1.s.example.org"],
    [{ publicUrl: "https://api.example.org" }, "http://80-i1.sandbox.localhost:7070"],
  ])("with %o", (more, origin) => {
    expect(new PortUrls({ ...base, ...more }).origin("i1", 80)).toBe(origin);
  });

  test("where a free port was taken, it is that one", () => {
    const urls = new PortUrls({ ...base, port: 0, tlsPort: 0, isTls: true });
    urls.listening(5000, 5443);
    expect(urls.origin("i1", "{port}")).toBe("https://{port}-i1.sandbox.localhost:5443");
  });
});
