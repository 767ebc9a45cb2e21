import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { allTraffic } from "@roost/contract";
import { run, silentLogger } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { namespaceName, openInstance, type Instance } from "../instance.ts";
import { fetchFromHost, NetworkLab, world, type LabGuest, type LabProgram } from "../testing/network-lab.ts";
import { parseAddress } from "./address-block.ts";
import { allowsAddress, egressRules, openEgress } from "./egress-rules.ts";
import { LinuxNetwork } from "./linux-network.ts";
import type { Slot } from "./network.ts";

let folder: string;
let instance: Instance;
let network: LinuxNetwork;
let lab: NetworkLab;
let slot: Slot;
let guest: LabGuest;

function newNetwork(): LinuxNetwork {
  return new LinuxNetwork({
    instance,
    slotCidr: "198.18.0.0/15",
    slotCount: 4,
    slotPoolSize: 0,
    uidBase: 1_879_048_192,
    guestDnsServers: [world.resolver],
    log: silentLogger,
  });
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-egress-"));
  instance = await openInstance(folder);
  lab = await NetworkLab.create(`re${instance.tag}`);
  network = newNetwork();
  await network.start([]);
  slot = await network.acquire();
  guest = await lab.plugGuest(namespaceName(instance, slot.index), 0);
});

afterEach(async () => {
  await network.setEgress(slot, openEgress);
});

afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await network?.close({ remove: true });
  await rm(folder, { recursive: true, force: true });
});

const answered = "world sees 11.77.2.0\n";

test("what is denied is refused at once, the rest is reached", async () => {
  await network.setEgress(slot, { allowOut: [], denyOut: ["11.77.0.0/31"] });
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
  await network.setEgress(slot, openEgress);
  expect(await guest.fetch(world.internet)).toBe(answered);
});

test("what is allowed wins over what is denied", async () => {
  await network.setEgress(slot, { allowOut: [world.elsewhere], denyOut: [allTraffic] });
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
});

test("without internet there is no resolver either, unless it is allowed", async () => {
  await network.setEgress(slot, { allowOut: [], denyOut: [allTraffic] });
  expect(await guest.fetch(world.resolver, 53)).toMatch(/^refused: E/);
  await network.setEgress(slot, { allowOut: [world.resolver], denyOut: [allTraffic] });
  expect(await guest.fetch(world.resolver, 53)).toBe(answered);
  expect(await guest.fetch(world.resolver, 80)).toMatch(/^refused: E/);
});

test.each([...world.denied, "169.254.0.22", world.host])("%s stays out of reach, whatever is allowed", async (address) => {
  await network.setEgress(slot, { allowOut: [allTraffic, `${address}/32`], denyOut: ["11.77.0.1/32"] });
  expect(await guest.fetch(address)).toMatch(/^refused: /);
});

test("another guest stays out of reach, whatever is allowed; the host dials both", async () => {
  const other = await network.acquire();
  const otherGuest = await lab.plugGuest(namespaceName(instance, other.index), 1);
  {
    await using server = await otherGuest.serve(8080);
    expect(server).toBeDefined();
    await network.setEgress(slot, { allowOut: [other.address, "198.18.0.0/15"], denyOut: [allTraffic] });
    await network.setEgress(other, { allowOut: [], denyOut: [allTraffic] });
    expect(await guest.fetch(other.address, 8080)).toMatch(/^refused: /);
    expect(await fetchFromHost(other.address, 8080)).toBe("guest sees 169.254.0.22\n");
  }
  await network.release(other);
});

/** Connects and talks for as long as it can; then says how that ended. */
const talk = (address: string) => `
const socket = require("node:net").connect(7, "${address}", () => setInterval(() => socket.write("hello from ${address} "), 50));
socket.on("data", (data) => console.log(String(data)));
socket.on("error", (error) => console.log("ended " + error.code));
socket.on("close", () => process.exit());
`;

const heard = (program: LabProgram, text: string) => expect.poll(() => program.output, { timeout: 30_000 }).toContain(text);

test("a connection that is no longer allowed ends; others go on", async () => {
  await using cut = guest.begin(talk(world.internet));
  await using kept = guest.begin(talk(world.elsewhere));
  await heard(cut, "hello");
  await heard(kept, "hello");
  await network.setEgress(slot, { allowOut: [world.elsewhere], denyOut: [allTraffic] });
  await heard(cut, "ended ECONNRESET");
  expect(kept.output).not.toContain("ended");
  const before = kept.output.length;
  await expect.poll(() => kept.output.length, { timeout: 30_000 }).toBeGreaterThan(before);
});

test("the host's own connections to a guest go on when everything is denied", async () => {
  await using server = await guest.serve(8080);
  expect(server).toBeDefined();
  await network.setEgress(slot, { allowOut: [], denyOut: [allTraffic] });
  expect(await fetchFromHost(slot.address, 8080)).toBe("guest sees 169.254.0.22\n");
});

test("a change that the kernel refuses leaves the policy before, and says so", async () => {
  const other = await network.acquire();
  const otherGuest = await lab.plugGuest(namespaceName(instance, other.index), 2);
  // A way back from `refuse` to `egress`: rules that go there would make a loop, which the kernel never takes
  await run(["ip", "netns", "exec", namespaceName(instance, other.index), "nft", "add rule inet roost refuse goto egress"]);
  await expect(network.setEgress(other, { allowOut: [], denyOut: [world.internet] })).rejects.toThrow("nft");
  expect(await otherGuest.fetch(world.internet)).toBe(answered);
  await network.release(other);
});

test("the next host agent puts the recorded policy in force in a slot that it takes over", async () => {
  await network.setEgress(slot, { allowOut: [], denyOut: [world.internet] });
  await network.close({ remove: false });
  network = newNetwork();
  await network.start([slot.index]);
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  await network.setEgress(slot, { allowOut: [], denyOut: [world.elsewhere] });
  expect(await guest.fetch(world.internet)).toBe(answered);
  expect(await guest.fetch(world.elsewhere)).toMatch(/^refused: E/);
  expect(await guest.fetch("10.77.0.1")).toMatch(/^refused: E/);
  await network.setEgress(slot, openEgress);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
});

test("the kernel decides as the model does, whatever the policy", async () => {
  const random = new SeededRandom();
  const entry = () => `11.77.0.${random.integer(4)}/${28 + random.integer(5)}`;
  const entries = () => Array.from({ length: random.integer(4) }, entry);
  for (let round = 0; round < 8; round += 1) {
    const policy = { allowOut: entries(), denyOut: [...entries(), ...(random.integer(3) === 0 ? [allTraffic] : [])] };
    await network.setEgress(slot, policy);
    const rules = egressRules(policy);
    for (const address of [world.internet, world.elsewhere]) {
      const expected = allowsAddress(rules, parseAddress(address));
      expect((await guest.fetch(address)) === answered, `SEED=${random.seed} ${JSON.stringify(policy)} ${address}`).toBe(expected);
    }
  }
});
