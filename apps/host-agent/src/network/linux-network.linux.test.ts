import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";

import { must, run, silentLogger } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { hostTableName, namespaceName, namespacePrefix, openInstance, vethPrefix, type Instance } from "../instance.ts";
import { labNetwork } from "../testing/egress-lab.ts";
import { fetchAsUser, fetchFromHost, NetworkLab, world, type LabGuest } from "../testing/network-lab.ts";
import { InstanceLock } from "../instance-lock.ts";
import { blocksOf, claimAddressBlock, releaseAddressBlock } from "./address-block.ts";
import { openEgress } from "./egress-rules.ts";
import type { LinuxNetwork } from "./linux-network.ts";
import type { Slot } from "./network.ts";

const nobody = 65_534;

let folder: string;
let instance: Instance;
let network: LinuxNetwork;
let lab: NetworkLab;
let slots: readonly [Slot, Slot];
let guests: readonly [LabGuest, LabGuest];

async function leftoversOf(of: Instance): Promise<string[]> {
  const namespaces = (await readdir("/run/netns")).filter((name) => name.startsWith(namespacePrefix(of)));
  const links = (await readdir("/sys/class/net")).filter((name) => name.startsWith(vethPrefix(of)));
  const tables = (await run(["nft", "list", "tables"])).split("\n").filter((line) => line.includes(hostTableName(of)));
  const claim = JSON.parse(await readFile(join(of.stateDir, "network.json"), "utf8")) as { index: number };
  const block = must(blocksOf("198.18.0.0/15")[claim.index], "block").cidr;
  const routes = (await run(["ip", "route", "show", "type", "unreachable"])).split("\n").filter((line) => line.includes(block));
  return [...namespaces, ...links, ...tables, ...routes];
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-network-"));
  instance = await openInstance(folder);
  lab = await NetworkLab.create(`rl${instance.tag}`);
  network = labNetwork(instance);
  await network.start([]);
  slots = [await network.acquire(), await network.acquire()];
  guests = [
    await lab.plugGuest(namespaceName(instance, slots[0].index), 0),
    await lab.plugGuest(namespaceName(instance, slots[1].index), 1),
  ];
});

afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await network?.close({ remove: true });
  expect(await leftoversOf(instance)).toEqual([]);
  await rm(folder, { recursive: true, force: true });
});

test("a guest reaches the internet, which sees the host's address", async () => {
  expect(await guests[0].fetch(world.internet)).toBe("world sees 11.77.2.0\n");
});

test.each([...world.denied])("a guest does not reach %s, though the host does", async (address) => {
  expect(await fetchFromHost(address, 80)).toContain("world sees");
  expect(await guests[0].fetch(address)).toMatch(/^refused: /);
});

test("a guest reaches the resolver on port 53 and on no other", async () => {
  expect(await guests[0].fetch(world.resolver, 53)).toContain("world sees");
  const datagram = `const socket = require("node:dgram").createSocket("udp4"); socket.on("message", (message) => { console.log(String(message)); socket.close(); }); socket.send("question", 53, "${world.resolver}"); setTimeout(() => process.exit(), 3000).unref()`;
  expect(await guests[0].run(datagram)).toBe("answer\n");
  expect(await guests[0].fetch(world.resolver, 80)).toMatch(/^refused: /);
});

test("a guest does not reach the host under any of its addresses", async () => {
  const server = createServer((socket) => socket.end("host\n"));
  await new Promise<void>((resolve) => {
    server.listen(0, "0.0.0.0", resolve);
  });
  const { port } = server.address() as { port: number };
  try {
    const addresses = Object.values(networkInterfaces()).flatMap((list) =>
      (list ?? []).flatMap(({ family, address }) => (family === "IPv4" ? [address] : [])),
    );
    expect(addresses).toContain(world.host);
    expect(addresses.length).toBeGreaterThanOrEqual(4);
    expect(await fetchFromHost(world.host, port)).toBe("host\n");
    const answers = await Promise.all([...addresses, "169.254.0.22"].map((address) => guests[0].fetch(address, port)));
    expect(answers.filter((answer) => !answer.startsWith("refused: "))).toEqual([]);
  } finally {
    server.close();
  }
});

test("two guests cannot talk to each other", async () => {
  await using server = await guests[1].serve(8080);
  expect(server).toBeDefined();
  expect(await fetchFromHost(slots[1].address, 8080)).toContain("guest sees");
  expect(await guests[0].fetch(slots[1].address, 8080)).toMatch(/^refused: /);
});

test("the host dials a guest, which sees its gateway; other users of the host cannot", async () => {
  await using server = await guests[0].serve(8080);
  expect(server).toBeDefined();
  expect(await fetchFromHost(slots[0].address, 8080)).toBe("guest sees 169.254.0.22\n");
  const socket = await network.dial(slots[0], 8080, { timeoutMs: 5_000 });
  socket.destroy();
  expect(await fetchAsUser(slots[0].address, 8080, nobody)).toMatch(/^refused: /);
  expect(await fetchAsUser(slots[0].address, 8080, 0)).toBe("guest sees 169.254.0.22\n");
});

test("nobody out there can open a connection to a guest through the host", async () => {
  await using server = await guests[0].serve(8080);
  expect(server).toBeDefined();
  const script = `const socket = require("node:net").connect(8080, "${slots[0].address}"); socket.setTimeout(1500, () => socket.destroy(new Error("timeout"))); socket.on("data", (data) => process.stdout.write(data)); socket.on("error", () => console.log("refused"));`;
  expect(await lab.fromWorld(script)).toBe("refused\n");
});

test("packets with another source address than the guest's are dropped", async () => {
  await run(["ip", "-netns", guests[0].namespace, "addr", "add", "11.77.9.9/32", "dev", "lo"]);
  const send = (from: string, text: string) =>
    guests[0].run(
      `const socket = require("node:dgram").createSocket("udp4"); socket.bind(0, "${from}", () => socket.send("${text}", 53, "${world.internet}", () => socket.close()));`,
    );
  await send("11.77.9.9", "spoofed");
  await send("169.254.0.21", "honest");
  await expect.poll(() => lab.worldOutput, { timeout: 10_000 }).toContain("udp honest from 11.77.2.0");
  expect(lab.worldOutput).not.toContain("spoofed");
});

test("nothing that is IPv6 passes", async () => {
  const namespace = namespaceName(instance, slots[0].index);
  expect(await run(["ip", "-6", "addr", "show", "dev", `${vethPrefix(instance)}${slots[0].index}`])).toBe("");
  // Even with IPv6 switched on in the slot and an address to talk to, the filter drops it
  await run([
    "nsenter",
    `--net=/run/netns/${namespace}`,
    "sh",
    "-c",
    "for name in all tap0; do echo 0 > /proc/sys/net/ipv6/conf/$name/disable_ipv6; done",
  ]);
  await run(["ip", "-netns", namespace, "addr", "add", "fd77::1/64", "dev", "tap0", "nodad"]);
  await run(["ip", "-netns", guests[0].namespace, "addr", "add", "fd77::2/64", "dev", "eth0", "nodad"]);
  expect(await guests[0].fetch("fd77::1", 9)).toBe("refused: TIMEOUT\n");
});

test("a released slot leaves nothing, and its number is lent again", async () => {
  const slot = await network.acquire();
  expect(await readdir("/run/netns")).toContain(namespaceName(instance, slot.index));
  await Promise.all([network.release(slot), network.release(slot)]);
  expect(await readdir("/run/netns")).not.toContain(namespaceName(instance, slot.index));
  const again = await network.acquire();
  expect(again).toEqual(slot);
  await network.release(again);
});

test("the range cannot change under running sandboxes; without any, the old claim is given up", async () => {
  const otherFolder = await mkdtemp(join(tmpdir(), "roost-network-"));
  const other = await openInstance(otherFolder);
  const log = silentLogger;
  const [before, after] = ["198.18.0.0/15", "198.51.100.0/24"];
  const block = await claimAddressBlock(other, { slotCidr: before, hasSlotsInUse: false, log });
  expect(await claimAddressBlock(other, { slotCidr: before, hasSlotsInUse: true, log })).toEqual(block);
  await expect(claimAddressBlock(other, { slotCidr: after, hasSlotsInUse: true, log })).rejects.toThrow("end them first");
  const moved = await claimAddressBlock(other, { slotCidr: after, hasSlotsInUse: false, log });
  expect(moved.cidr).toBe(after);
  // Somebody else's claim on a range of one block: in the way while its host agent lives, taken over when it is gone
  const lock = await InstanceLock.take(other);
  const third = await openInstance(join(otherFolder, "third"));
  await expect(claimAddressBlock(third, { slotCidr: after, hasSlotsInUse: false, log })).rejects.toThrow("are taken");
  await lock.release();
  expect(await claimAddressBlock(third, { slotCidr: after, hasSlotsInUse: false, log })).toEqual(moved);
  await releaseAddressBlock(moved);
  await rm(otherFolder, { recursive: true });
});

test("another installation gets other names, addresses and uids; a restart keeps them and removes what nobody uses", async () => {
  const otherFolder = await mkdtemp(join(tmpdir(), "roost-network-"));
  const other = await openInstance(otherFolder);
  const first = labNetwork(other, { slotPoolSize: 2, slotCount: 3 });
  await first.start([]);
  const [kept, lost] = [await first.acquire(), await first.acquire()];
  try {
    expect(kept.address).not.toBe(slots[0].address);
    expect(kept.uid).not.toBe(slots[0].uid);
    expect(new Set([kept.index, lost.index]).size).toBe(2);
    // The first one is simply dropped, as by kill -9; only `kept` has a sandbox
    await first.close({ remove: false });
    const second = labNetwork(other, { slotCount: 3 });
    await second.start([{ index: kept.index, policy: openEgress }]);
    expect(second.slot(kept.index)).toEqual(kept);
    expect((await leftoversOf(other)).filter((name) => name.startsWith("roost-"))).toEqual([namespaceName(other, kept.index)]);
    const [a, b] = await Promise.all([second.acquire(), second.acquire()]);
    expect(new Set([kept.index, a?.index, b?.index]).size).toBe(3);
    await expect(second.acquire()).rejects.toMatchObject({ code: "capacity_exhausted" });
    await second.close({ remove: true });
    expect(await leftoversOf(other)).toEqual([]);
  } finally {
    await rm(must(otherFolder, "folder"), { recursive: true, force: true });
  }
});
