import { noLimits, type EgressLimits } from "@roost/contract";
import { CommandError, run } from "@roost/kit";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { namespaceName } from "../instance.ts";
import { EgressLab, labLimits } from "../testing/egress-lab.ts";
import { fetchFromHost, world } from "../testing/network-lab.ts";
import { openEgress } from "./egress-rules.ts";

/** The host's: low, so that a few connections are too many */
const connectionsMax = 40;

let lab: EgressLab;
let slotNamespace: string;
let worldNamespace: string;

beforeAll(async () => {
  lab = await EgressLab.create("rm", { guestLimits: { ...labLimits, connectionsMax } });
  slotNamespace = namespaceName(lab.instance, lab.slot.index);
  worldNamespace = lab.lab.worldNamespace;
});

afterEach(async () => {
  await lab.setEgress(openEgress);
});

afterAll(async () => lab?.[Symbol.asyncDispose]());

const limit = (limits: Partial<EgressLimits>) => lab.setEgress({ ...openEgress, limits: { ...noLimits, ...limits } });
const inNamespace = (namespace: string, ...command: [string, ...string[]]) => run(["nsenter", `--net=/run/netns/${namespace}`, ...command]);

/** What the kernel has counted of datagrams to one port that came into a namespace, in bytes. */
async function countDatagrams(namespace: string, port: number): Promise<{ readonly bytes: () => Promise<number> } & AsyncDisposable> {
  const nft = (text: string) => inNamespace(namespace, "nft", text);
  await nft(
    `add table inet judge; add counter inet judge seen; add chain inet judge arrive { type filter hook prerouting priority raw; }; add rule inet judge arrive udp dport ${port} counter name seen`,
  );
  return {
    bytes: async () => Number(/bytes (\d+)/.exec(await nft("list counter inet judge seen"))?.[1]),
    [Symbol.asyncDispose]: async () => void (await nft("delete table inet judge")),
  };
}

const datagramsBytes = 8_000 * 1_000;
/** Sends `datagramsBytes` to a port as fast as the kernel takes them. */
const sendDatagrams = (host: string, port: number) => `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7777))
for i in range(8000): s.sendto(bytes(1000), ("${host}", ${port}))
`;

test("what a guest sends above its rate does not leave; without a limit all does", async () => {
  await using seen = await countDatagrams(worldNamespace, 4_000);
  const send = () => inNamespace(lab.guest.namespace, "python3", "-c", sendDatagrams(world.internet, 4_000));
  await send();
  const all = await seen.bytes();
  expect(all).toBeGreaterThan(datagramsBytes * 0.9);
  await limit({ outMbit: 1 });
  await send();
  // A burst of 256 KiB, and 125 kB in each second of the sending
  expect((await seen.bytes()) - all).toBeLessThan(datagramsBytes / 2);
});

test("what a guest receives above its rate does not arrive", async () => {
  await using seen = await countDatagrams(lab.guest.namespace, 7_777);
  // A datagram out opens the way for those that come back
  const open = `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7777)); s.sendto(b"open", ("${world.internet}", 7777))`;
  const receive = async () => {
    const before = await seen.bytes();
    await inNamespace(lab.guest.namespace, "python3", "-c", open);
    await inNamespace(
      worldNamespace,
      "python3",
      "-c",
      sendDatagrams("11.77.2.0", 7_777).replace('("", 7777)', `("${world.internet}", 7777)`),
    );
    return (await seen.bytes()) - before;
  };
  expect(await receive()).toBeGreaterThan(datagramsBytes * 0.9);
  await limit({ inMbit: 1 });
  expect(await receive()).toBeLessThan(datagramsBytes / 2);
});

/** Opens connections one after the other, and holds them until all were tried; how many were opened. */
const openMany = async (count: number) =>
  Number(
    await lab.guest.run(`
const { connect } = require("node:net"), held = [];
const open = () => new Promise((resolve) => { const socket = connect(7, "${world.internet}", () => resolve(held.push(socket))); socket.on("error", resolve); });
(async () => { for (let i = 0; i < ${count}; i += 1) await open(); console.log(held.length); for (const socket of held) socket.resetAndDestroy(); })();
`),
  );

test("a guest has no more connections at once than it may, and room comes back when they end", async () => {
  await limit({ connections: 5 });
  expect(await openMany(9)).toBe(5);
  expect(await openMany(9)).toBe(5);
  await limit({ connections: 7 });
  expect(await openMany(9)).toBe(7);
  await limit({ connections: 1_000 });
  const opened = await openMany(connectionsMax + 20);
  expect(opened, "the host's limit, which datagrams of other tests may still count for").toBeLessThanOrEqual(connectionsMax);
  expect(opened).toBeGreaterThan(connectionsMax / 2);
});

test("each connection above the limit is refused at once, however many there are", async () => {
  await limit({ connections: 1 });
  const script = `
const { connect } = require("node:net");
const open = () => new Promise((resolve) => { const socket = connect(7, "${world.internet}", () => resolve("open")); socket.on("error", (error) => resolve(error.code)); });
(async () => { const outcomes = new Set(); for (let i = 0; i < 30; i += 1) outcomes.add(await open()); console.log([...outcomes].join()); process.exit(); })();
`;
  expect(await lab.guest.run(script)).toBe("open,ECONNREFUSED\n");
});

test("more new connections than it may open in a second are refused; those that are open do not count again", async () => {
  await limit({ connectionsPerSec: 2 });
  const opened = await openMany(30);
  expect(opened).toBeGreaterThanOrEqual(4);
  expect(opened).toBeLessThan(30);
  // Datagrams that nobody answers are no new connection each
  await using seen = await countDatagrams(worldNamespace, 4_000);
  const send = sendDatagrams(world.internet, 4_000);
  await expect
    .poll(() => inNamespace(lab.guest.namespace, "python3", "-c", send).then(seen.bytes), { timeout: 30_000 })
    .toBeGreaterThan(datagramsBytes * 0.9);
});

test("the host dials a guest that has used up what it may", async () => {
  await limit({ connections: 1, connectionsPerSec: 1, outMbit: 1, inMbit: 1 });
  await using server = await lab.guest.serve(8_080);
  expect(server).toBeDefined();
  expect(await openMany(5)).toBe(1);
  expect(await fetchFromHost(lab.slot.address, 8_080)).toBe("guest sees 169.254.0.22\n");
});

/**
 * Opens connections by hand, and ends each with a reset that is too large for the way: the slot sees it and forgets the connection, the host never does. Its own kernel must not
 * answer for connections that it does not know, nor believe what the way says of its size.
 */
const desynchronize = (count: number) => `
import socket, struct, subprocess
subprocess.run(["nft", "add table inet quiet; add chain inet quiet out { type filter hook output priority raw; }; add rule inet quiet out tcp flags rst ip length < 100 drop; add chain inet quiet in { type filter hook input priority raw; }; add rule inet quiet in icmp type destination-unreachable drop"], check=True)
src, dst = socket.inet_aton("169.254.0.21"), socket.inet_aton("${world.internet}")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
hear = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
hear.settimeout(2)
def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def send(sport, seq, ack, flags, payload=b""):
    head = struct.pack("!HHIIBBHHH", sport, 7, seq, ack, 0x50, flags, 65000, 0, 0)
    pseudo = src + dst + struct.pack("!BBH", 0, 6, len(head) + len(payload))
    head = head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(head) + len(payload), 0, 0x4000, 64, 6, 0, src, dst)
    raw.sendto(ip + head + payload, ("${world.internet}", 0))
opened = 0
for sport in range(20000, 20000 + ${count}):
    send(sport, 1000, 0, 2)
    try:
        while True:
            packet = hear.recv(200)
            if struct.unpack("!H", packet[22:24])[0] == sport: break
    except TimeoutError: break
    if packet[33] != 0x12: continue
    theirs = struct.unpack("!I", packet[24:28])[0]
    send(sport, 1001, theirs + 1, 0x10)
    send(sport, 1001, theirs + 1, 0x14, bytes(2000))
    opened += 1
print(opened)
`;

async function connectionsOf(address: string, namespace?: string): Promise<string[]> {
  const command = ["conntrack", "-L", "-p", "tcp", "--orig-src", address] as const;
  const listing = await (namespace === undefined ? run(command) : inNamespace(namespace, ...command));
  return listing.split("\n").filter((line) => line.includes("ESTABLISHED"));
}

test("a guest cannot fill the host's connection table with what its slot has forgotten, nor leave anything there", async () => {
  const { slot, guest } = await lab.plug(1);
  const namespace = namespaceName(lab.instance, slot.index);
  // Lets the guest's end send what is too large for the way out
  await run(["ip", "-netns", guest.namespace, "link", "set", "eth0", "mtu", "3000"]);
  await run(["ip", "-netns", namespace, "link", "set", "tap0", "mtu", "3000"]);
  const opened = await inNamespace(guest.namespace, "python3", "-c", desynchronize(connectionsMax * 2));
  expect(Number(opened)).toBeGreaterThanOrEqual(connectionsMax);
  expect(await connectionsOf("169.254.0.21", namespace), "forgotten by the slot").toEqual([]);
  const left = await connectionsOf(slot.address);
  expect(left.length).toBeGreaterThan(connectionsMax / 2);
  expect(left.length).toBeLessThanOrEqual(connectionsMax);
  await lab.network.release(slot);
  expect(await connectionsOf(slot.address)).toEqual([]);
});

const frames = (make: string) => `
import os, socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
me, broadcast = bytes.fromhex("02fc00000005"), b"\\xff" * 6
ip = socket.inet_aton
def arp(sender, target, mac=me, operation=1):
    s.send(broadcast + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + mac + ip(sender) + bytes(6) + ip(target))
${make}
`;

test("a guest makes no neighbours of its slot, whose table all sandboxes share", async () => {
  const neighbours = async () => (await run(["ip", "-netns", slotNamespace, "neigh", "show", "dev", "tap0"])).trim().split("\n");
  const before = await neighbours();
  expect(before).toEqual(["169.254.0.21 lladdr 02:fc:00:00:00:05 PERMANENT"]);
  const flood = frames(`
for i in range(500):
    arp("11.99.%d.%d" % (i // 250, i % 250 + 1), "169.254.0.22")
    arp("169.254.0.20", "169.254.0.22", mac=os.urandom(6))
arp("169.254.0.22", "169.254.0.22")
arp("169.254.0.21", "169.254.0.22", mac=bytes.fromhex("02aabbccddee"), operation=2)
`);
  await inNamespace(lab.guest.namespace, "python3", "-c", flood);
  expect(await neighbours()).toEqual(before);
  // It still finds its gateway
  await run(["ip", "-netns", lab.guest.namespace, "neigh", "flush", "all"]);
  expect(await lab.guest.fetch(world.internet)).toBe("world sees 11.77.2.0\n");
});

test("packets with IP options stay in the slot", async () => {
  await using seen = await countDatagrams(worldNamespace, 4_001);
  const send = (options: string) =>
    inNamespace(
      lab.guest.namespace,
      "python3",
      "-c",
      `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes.fromhex("${options}"))
s.sendto(b"x" * 100, ("${world.internet}", 4001))
`,
    ).catch((error: unknown) => {
      if (!(error instanceof CommandError)) throw error;
      return ""; // the kernel of a guest of its own would have sent it
    });
  await send("01010101"); // four times nothing
  await send("07070400000000".concat("00")); // record the route
  expect(await seen.bytes()).toBe(0);
  await send("");
  expect(await seen.bytes()).toBe(128);
});
