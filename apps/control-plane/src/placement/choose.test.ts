import { hostStates, vmOverheadMib } from "@roost/contract";
import { SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import { nothingTaken } from "../db/reservations.ts";
import { choose, whyNoRoom, type PlacementHost, type PlacementRequest } from "./choose.ts";

const aHost = (more: Partial<PlacementHost> = {}): PlacementHost => ({
  id: "host",
  state: "ready",
  isReachable: true,
  teamId: null,
  tags: ["ssd", "accelerator=kvm"],
  capacity: { vcpus: 16, memoryMib: 16_384, sandboxCount: 100, diskMib: 100_000, diskFreeMib: 90_000 },
  taken: nothingTaken,
  holds: "disk",
  hasRefused: false,
  ...more,
});
const request: PlacementRequest = { sandboxId: "i1", teamId: "default", count: 1, vcpus: 2, memoryMib: 1024, tags: [] };
const taken = (memoryMib: number, vcpus = 0) => ({ ...nothingTaken, memoryMib, vcpus });
const ids = (hosts: readonly PlacementHost[], asked = request) => choose(hosts, asked).able.map(({ id }) => id);

describe("a host is not able", () => {
  test.each([
    ["not-ready", { state: "cordoned" }],
    ["not-ready", { state: "draining" }],
    ["not-ready", { state: "pending" }],
    ["unreachable", { isReachable: false }],
    ["other-team", { teamId: "gother" }],
    ["template", { holds: "nothing" }],
    ["room", { taken: taken(16_000) }],
    ["room", { taken: taken(0, 15) }],
    ["room", { taken: { ...nothingTaken, running: 100 } }],
    ["room", { capacity: { ...aHost().capacity, diskFreeMib: 2_000 } }],
    ["too-large", { capacity: { ...aHost().capacity, memoryMib: 1024 + vmOverheadMib - 1 } }],
    ["too-large", { capacity: { ...aHost().capacity, vcpus: 1 } }],
  ] as const)("%s: %o", (reason, more) => {
    expect(choose([aHost(more)], request)).toEqual({ able: [], unable: new Map([["host", reason]]) });
  });

  test("without a tag that is asked for", () => {
    const asked = { ...request, tags: ["ssd", "gpu"] };
    expect(choose([aHost()], asked).unable.get("host")).toBe("tags");
    expect(ids([aHost({ tags: ["gpu", "ssd"] })], asked)).toEqual(["host"]);
  });
});

test("a team's own host is able for that team", () => {
  expect(ids([aHost({ teamId: "default" })])).toEqual(["host"]);
});

test("what just fits, fits", () => {
  const exact = { capacity: { ...aHost().capacity, memoryMib: 1024 + vmOverheadMib, vcpus: 2, sandboxCount: 1 } };
  expect(ids([aHost(exact)])).toEqual(["host"]);
});

test("children of a fork need room for all of them on one host", () => {
  const asked = { ...request, count: 15 };
  expect(choose([aHost()], asked).unable.get("host")).toBe("too-large"); // 30 vCPUs of 16
  expect(ids([aHost({ capacity: { ...aHost().capacity, vcpus: 30 } })], { ...asked, memoryMib: 512 })).toEqual(["host"]);
});

test("the host that has most left of what it will have least of comes first", () => {
  const hosts = [
    aHost({ id: "little-memory", taken: taken(12_000, 0) }),
    aHost({ id: "few-cpus", taken: taken(0, 13) }),
    aHost({ id: "half", taken: taken(8_000, 8) }),
  ];
  expect(ids(hosts)).toEqual(["half", "little-memory", "few-cpus"]);
});

test("hosts that are all shortest of disk are told apart by what else they have", () => {
  const capacity = { ...aHost().capacity, diskFreeMib: 20_000 };
  const hosts = [aHost({ id: "used", capacity, taken: taken(2_000, 2) }), aHost({ id: "empty", capacity })];
  for (let index = 0; index < 20; index += 1) expect(ids(hosts, { ...request, sandboxId: `sandbox${index}` })).toEqual(["empty", "used"]);
});

test("memory of the template outweighs a quarter of a host, and no more", () => {
  const quick = aHost({ id: "quick", holds: "memory", taken: taken(3_000) });
  expect(ids([aHost({ id: "empty" }), quick])).toEqual(["quick", "empty"]);
  expect(ids([aHost({ id: "empty" }), { ...quick, taken: taken(8_000) }])).toEqual(["empty", "quick"]);
});

test("equals take turns: by the sandbox, not by their names", () => {
  const hosts = ["a", "b", "c"].map((id) => aHost({ id }));
  const firsts = new Map<string, number>();
  for (let index = 0; index < 3_000; index += 1) {
    const [first = ""] = ids(hosts, { ...request, sandboxId: `sandbox${index}` });
    firsts.set(first, (firsts.get(first) ?? 0) + 1);
  }
  for (const count of firsts.values()) expect(count).toBeGreaterThan(700);
});

const random = new SeededRandom();

test(`whatever there is (seed ${random.seed}): able hosts are able, in an order that does not depend on how they are listed`, () => {
  for (let round = 0; round < 500; round += 1) {
    const hosts = Array.from({ length: random.integer(8) }, (_, index) =>
      aHost({
        id: `host-${index}`,
        state: random.pick(hostStates),
        isReachable: random.next() < 0.8,
        teamId: random.pick([null, null, "default", "gother"] as const),
        tags: random.next() < 0.5 ? ["ssd"] : [],
        holds: random.pick(["nothing", "disk", "memory"] as const),
        taken: { ...taken(random.integer(17_000), random.integer(17)), running: random.integer(101) },
      }),
    );
    const asked = {
      ...request,
      count: 1 + random.integer(3),
      memoryMib: 256 + random.integer(8_000),
      tags: random.next() < 0.3 ? ["ssd"] : [],
    };
    const { able, unable } = choose(hosts, asked);
    expect(able.length + unable.size).toBe(hosts.length);
    for (const host of able) {
      expect(host).toMatchObject({ state: "ready", isReachable: true });
      expect(host.holds).not.toBe("nothing");
      expect(host.teamId ?? "default").toBe("default");
      expect(asked.tags.every((tag) => host.tags.includes(tag))).toBe(true);
      expect(host.taken.memoryMib + asked.count * (asked.memoryMib + vmOverheadMib)).toBeLessThanOrEqual(host.capacity.memoryMib);
      expect(host.taken.vcpus + asked.count * asked.vcpus).toBeLessThanOrEqual(host.capacity.vcpus);
      expect(whyNoRoom(host.capacity, host.taken, asked)).toBeUndefined();
    }
    expect(choose([...hosts].reverse(), asked).able.map(({ id }) => id)).toEqual(able.map(({ id }) => id));
  }
});

test("who refused a moment ago comes last, however much it has left", () => {
  const refused = aHost({ id: "refused", hasRefused: true });
  const nearlyFull = aHost({ id: "nearly-full", taken: taken(12_000) });
  expect(ids([refused, nearlyFull])).toEqual(["nearly-full", "refused"]);
});
