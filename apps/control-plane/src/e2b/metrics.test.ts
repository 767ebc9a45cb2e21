import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const points = (...seconds: number[]) =>
  seconds.map((second) => ({
    timeUnixSec: BigInt(second),
    cpuPercent: 12.3456,
    memoryBytes: 100n,
    memoryCacheBytes: 50n,
    diskBytes: 200n,
  }));
async function get(path: string): Promise<{ readonly status: number; readonly body: unknown }> {
  const answer = await world.request("GET", path);
  return { status: answer.status, body: await answer.json() };
}
const secondsOf = async (path: string) =>
  ((await get(path)).body as { readonly timestampUnix: number }[]).map(({ timestampUnix }) => timestampUnix);

test("a metric has E2B's fields, in bytes", async () => {
  const { id } = await world.createSandbox({ vcpus: 2 });
  world.host.metricPoints = points(1_800_000_000);
  expect(await get(`/sandboxes/${id}/metrics`)).toEqual({
    status: 200,
    body: [
      {
        timestamp: "2027-01-15T08:00:00.000Z",
        timestampUnix: 1_800_000_000,
        cpuCount: 2,
        cpuUsedPct: 12.35,
        memUsed: 100,
        memTotal: 1_000,
        memCache: 50,
        diskUsed: 200,
        diskTotal: 2_000,
      },
    ],
  });
});

test("one in 5 s, the same ones whenever and from wherever they are asked for", async () => {
  const { id } = await world.createSandbox();
  world.host.metricPoints = points(1, 2, 5, 6, 9, 10, 41, 71);
  expect(await secondsOf(`/sandboxes/${id}/metrics`)).toEqual([1, 5, 10, 41, 71]);
  expect(await secondsOf(`/sandboxes/${id}/metrics?start=6&end=41`)).toEqual([10, 41]);
  expect(await secondsOf(`/sandboxes/${id}/metrics?start=72`)).toEqual([]);
  world.host.metricPoints = [];
  expect(await secondsOf(`/sandboxes/${id}/metrics`)).toEqual([]);
});

test.each(["start=x", "start=-1", "end=1.5", "start=9&end=8"])("%s is refused", async (query) => {
  const { id } = await world.createSandbox();
  expect(await get(`/sandboxes/${id}/metrics?${query}`)).toMatchObject({
    status: 400,
    body: { code: 400, message: expect.stringMatching(/start|end/) },
  });
});

test("a paused sandbox answers with what was; one that is gone with 404", async () => {
  const { id } = await world.createSandbox();
  world.host.metricPoints = points(1, 7);
  expect((await world.request("POST", `/sandboxes/${id}/pause`)).status).toBe(204);
  expect(world.host.sandboxes.get(id)?.state).toBe(SandboxState.PAUSED);
  expect(await secondsOf(`/sandboxes/${id}/metrics`)).toEqual([1, 7]);
  expect((await world.request("DELETE", `/sandboxes/${id}`)).status).toBe(204);
  for (const gone of [id, "inobody"]) {
    expect(await get(`/sandboxes/${gone}/metrics`)).toMatchObject({ status: 404, body: { code: 404 } });
  }
});

test("the newest of several, without those that are gone", async () => {
  const one = await world.createSandbox();
  const other = await world.createSandbox();
  world.host.metricPoints = points(1, 2, 3);
  const newest = { timestampUnix: 3, memUsed: 100 };
  const answer = { status: 200, body: { sandboxes: { [one.id]: newest, [other.id]: newest } } };
  for (const query of [`sandbox_ids=${one.id},inobody,${other.id},${one.id},`, `sandbox_ids=${one.id}&sandbox_ids=${other.id}`]) {
    const got = await get(`/sandboxes/metrics?${query}`);
    expect(got).toMatchObject(answer);
    expect(Object.keys((got.body as typeof answer.body).sandboxes)).toHaveLength(2);
  }
  world.host.metricPoints = [];
  expect((await get(`/sandboxes/metrics?sandbox_ids=${one.id}`)).body).toEqual({ sandboxes: {} });
});

test("the newest of more than 100, or of nobody said whom, is refused", async () => {
  const many = Array.from({ length: 101 }, (_, index) => `i${index}`).join(",");
  for (const query of [`?sandbox_ids=${many}`, ""]) expect((await get(`/sandboxes/metrics${query}`)).status).toBe(400);
});
