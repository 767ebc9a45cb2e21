import { allTraffic } from "@roost/contract";
import { run } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { namespaceName } from "../instance.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { fetchFromHost, world, type LabGuest, type LabProgram } from "../testing/network-lab.ts";
import { parseAddress } from "./address-block.ts";
import { allowsAddress, egressRules, openEgress } from "./egress-rules.ts";
import type { Slot } from "./network.ts";

let lab: EgressLab;
let slot: Slot;
let guest: LabGuest;

beforeAll(async () => {
  lab = await EgressLab.create("re");
  ({ slot, guest } = lab);
});

afterEach(async () => {
  await lab.setEgress(openEgress);
});

afterAll(async () => lab?.[Symbol.asyncDispose]());

const answered = "world sees 11.77.2.0\n";

test("what is denied is refused at once, the rest is reached", async () => {
  await lab.setEgress({ ...openEgress, denyOut: ["11.77.0.0/31"] });
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
  await lab.setEgress(openEgress);
  expect(await guest.fetch(world.internet)).toBe(answered);
});

test("what is allowed wins over what is denied", async () => {
  await lab.setEgress({ ...openEgress, allowOut: [world.elsewhere], denyOut: [allTraffic] });
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
});

test("without internet there is no resolver either, unless it is allowed", async () => {
  await lab.setEgress({ ...openEgress, denyOut: [allTraffic] });
  expect(await guest.fetch(world.resolver, 53)).toMatch(/^refused: E/);
  await lab.setEgress({ ...openEgress, allowOut: [world.resolver], denyOut: [allTraffic] });
  expect(await guest.fetch(world.resolver, 53)).toBe(answered);
  expect(await guest.fetch(world.resolver, 80)).toMatch(/^refused: E/);
});

test.each([...world.denied, "169.254.0.22", world.host])("%s stays out of reach, whatever is allowed", async (address) => {
  await lab.setEgress({ ...openEgress, allowOut: [allTraffic, `${address}/32`], denyOut: ["11.77.0.1/32"] });
  expect(await guest.fetch(address)).toMatch(/^refused: /);
});

test("another guest stays out of reach, whatever is allowed; the host dials both", async () => {
  const { slot: other, guest: otherGuest } = await lab.plug(1);
  {
    await using server = await otherGuest.serve(8080);
    expect(server).toBeDefined();
    await lab.setEgress({ ...openEgress, allowOut: [other.address, "198.18.0.0/15"], denyOut: [allTraffic] });
    await lab.network.setEgress(other, { ...openEgress, denyOut: [allTraffic] });
    expect(await guest.fetch(other.address, 8080)).toMatch(/^refused: /);
    expect(await fetchFromHost(other.address, 8080)).toBe("guest sees 169.254.0.22\n");
  }
  await lab.network.release(other);
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
  await lab.setEgress({ ...openEgress, allowOut: [world.elsewhere], denyOut: [allTraffic] });
  await heard(cut, "ended ECONNRESET");
  expect(kept.output).not.toContain("ended");
  const before = kept.output.length;
  await expect.poll(() => kept.output.length, { timeout: 30_000 }).toBeGreaterThan(before);
});

test("the host's own connections to a guest go on when everything is denied", async () => {
  await using server = await guest.serve(8080);
  expect(server).toBeDefined();
  await lab.setEgress({ ...openEgress, denyOut: [allTraffic] });
  expect(await fetchFromHost(slot.address, 8080)).toBe("guest sees 169.254.0.22\n");
});

test("a change that the kernel refuses leaves the policy before, and says so", async () => {
  const { slot: other, guest: otherGuest } = await lab.plug(2);
  // A way back from `refuse` to `egress`: rules that go there would make a loop, which the kernel never takes
  await run(["ip", "netns", "exec", namespaceName(lab.instance, other.index), "nft", "add rule inet roost refuse goto egress"]);
  await expect(lab.network.setEgress(other, { ...openEgress, denyOut: [world.internet] })).rejects.toThrow("nft");
  expect(await otherGuest.fetch(world.internet)).toBe(answered);
  await lab.network.release(other);
});

test("the next host agent puts the recorded policy in force in a slot that it takes over", async () => {
  await lab.setEgress({ ...openEgress, denyOut: [world.internet] });
  await lab.restart([{ index: slot.index, policy: openEgress }]);
  expect(await guest.fetch(world.internet)).toMatch(/^refused: E/);
  await lab.setEgress({ ...openEgress, denyOut: [world.elsewhere] });
  expect(await guest.fetch(world.internet)).toBe(answered);
  expect(await guest.fetch(world.elsewhere)).toMatch(/^refused: E/);
  expect(await guest.fetch("10.77.0.1")).toMatch(/^refused: E/);
  await lab.setEgress(openEgress);
  expect(await guest.fetch(world.elsewhere)).toBe(answered);
});

test("the kernel decides as the model does, whatever the policy", async () => {
  const random = new SeededRandom();
  const entry = () => `11.77.0.${random.integer(4)}/${28 + random.integer(5)}`;
  const entries = () => Array.from({ length: random.integer(4) }, entry);
  for (let round = 0; round < 8; round += 1) {
    const policy = { ...openEgress, allowOut: entries(), denyOut: [...entries(), ...(random.integer(3) === 0 ? [allTraffic] : [])] };
    await lab.setEgress(policy);
    const rules = egressRules(policy);
    for (const address of [world.internet, world.elsewhere]) {
      const expected = allowsAddress(rules, parseAddress(address));
      expect((await guest.fetch(address)) === answered, `SEED=${random.seed} ${JSON.stringify(policy)} ${address}`).toBe(expected);
    }
  }
});
