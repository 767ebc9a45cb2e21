import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { networkInterfaces } from "node:os";

import { allTraffic, guestAgentPort } from "@roost/contract";
import { must, poll, run } from "@roost/kit";

import { namespaceName, vethName, type Instance } from "../../instance.ts";
import { formatAddress, parseAddress } from "../../network/address-block.ts";
import { openEgress } from "../../network/egress-rules.ts";
import { world, type NetworkLab } from "../network-lab.ts";
import { attempts, goal, type Attempt } from "./attempts.ts";
import { allowedByAddress, endWatch, isAllowedInWorld, seenAt, watch, type WatchedPlace } from "./judge.ts";

export const batteryPolicy = { ...openEgress, allowOut: ["internet.test", "*.internet.test", goal.allowed], denyOut: [allTraffic] };

export interface BatteryGuest {
  readonly hostAddress: string;
  readonly slotAddress: string;
  readonly slotNamespace: string;
  /** Name of the host's end of its veth pair */
  readonly veth: string;
}

/** By its slot, and that slot's address for the host. */
export function batteryGuest(instance: Instance, slot: number, slotAddress: string): BatteryGuest {
  return {
    slotAddress,
    hostAddress: formatAddress(parseAddress(slotAddress) - 1),
    slotNamespace: namespaceName(instance, slot),
    veth: vethName(instance, slot),
  };
}

export interface BatteryOptions {
  readonly lab: NetworkLab;
  readonly guest: BatteryGuest;
  readonly other: BatteryGuest;
  /** Of the host's table */
  readonly tableName: string;
  /** Runs Python in the guest, as root, with an input; its output */
  readonly runInGuest: (program: string, input: string) => Promise<string>;
  /** Names of attempts; undefined: all */
  readonly only?: RegExp;
}

export interface BatteryOutcome {
  readonly attempts: readonly Attempt[];
  /** What was seen and must not have been */
  readonly leaks: readonly string[];
  /** Attempts whose counterpart was not seen */
  readonly unproven: readonly string[];
  /** What the guest was told, by attempt */
  readonly told: ReadonlyMap<string, string>;
}

/** Ports of TCP that somebody listens on, in this network namespace. */
async function listeningPorts(): Promise<number[]> {
  const ports = (await run(["ss", "-Hltn"])).split("\n").flatMap((line) => /:(\d+)\s+\S+\s*$/.exec(line)?.[1] ?? []);
  return [...new Set(ports.map(Number))];
}

/** Listens on all addresses of the host, by TCP and UDP; says who came. */
async function listenEverywhere(record: (line: string) => void) {
  const server = createServer((socket) => {
    record(`host tcp from ${socket.remoteAddress}`);
    socket.on("error", () => undefined).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
  const { port } = server.address() as { readonly port: number };
  const udp = createSocket("udp4", (_message, from) => record(`host udp from ${from.address}`));
  await new Promise<void>((resolve) => udp.bind(port, "0.0.0.0", resolve));
  return {
    port,
    [Symbol.asyncDispose]: async () => {
      udp.close();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Runs all attempts in a guest that has the battery's policy, while every place is watched where one could arrive. */
export async function runBattery({ lab, guest, other, tableName, runInGuest, only = /./ }: BatteryOptions): Promise<BatteryOutcome> {
  const leaks: string[] = [];
  await using listener = await listenEverywhere((line) => leaks.push(line));
  const elements = await run(["nft", "list", "set", "inet", tableName, "egress_listeners"]);
  const gatewayPorts = [...elements.matchAll(/(tcp|udp) \. ([\d.]+) \. (\d+)/g)].filter(([, , address]) => address === guest.hostAddress);
  const made = attempts({
    ...guest,
    otherAddresses: [other.hostAddress, other.slotAddress],
    hostPorts: [...new Set([listener.port, ...(await listeningPorts())])],
    hostAddresses: hostAddresses(guest.hostAddress),
    gatewayPort: Number(must(gatewayPorts.find(([, protocol]) => protocol === "tcp")?.[3], "a listener of the guest's gateway")),
  }).filter(({ name }) => only.test(name));
  const places: Readonly<Record<"world" | "slot" | "other", WatchedPlace>> = {
    world: { namespace: lab.worldNamespace, from: "eth0" },
    // What leaves the slot, whether the host's table would let it pass or not; but for the guest agent's answers to the host
    slot: { namespace: undefined, from: guest.veth, except: [`ip daddr ${guest.hostAddress} tcp sport ${guestAgentPort}`] },
    // The host dials the other guest, nobody else does
    other: { namespace: other.slotNamespace, from: "eth0", except: [`ip saddr ${other.hostAddress}`] },
  };
  const program = readFileSync(new URL("guest-program.py", import.meta.url), "utf8");
  for (const place of Object.values(places)) await watch(place);
  const heardBefore = lab.worldOutput.length;
  const neighboursBefore = await neighbours(guest.slotNamespace);
  try {
    const answers = await runInGuest(program, JSON.stringify(made.flatMap(({ forbidden, allowed }) => [forbidden, allowed])));
    await untilWritten(lab);
    const told = JSON.parse(must(answers.trim().split("\n").at(-1), "the guest's answers")) as string[];
    const out = [...(await seenAt("world", places.world)), ...lab.worldOutput.slice(heardBefore).split("\n")];
    const ofGateway = new Set([
      ...gatewayPorts.map(([, protocol, address, port]) => `slot ${protocol} ${address} ${port}`),
      `slot icmp ${guest.hostAddress} destination-unreachable`, // to an answer that the guest did not wait for
    ]);
    const isAllowedOutOfSlot = (line: string) =>
      ofGateway.has(line) || line === `slot source ${guest.slotAddress}` || allowedByAddress("slot").test(line);
    leaks.push(
      ...out.filter((line) => !isAllowedInWorld(line)),
      ...(await seenAt("slot", places.slot)).filter((line) => !isAllowedOutOfSlot(line)),
      ...(await seenAt("other", places.other)),
    );
    if ((await neighbours(guest.slotNamespace)) !== neighboursBefore) leaks.push("slot neighbours");
    return {
      attempts: made,
      leaks: leaks.map((line) => `${line}${blame(line, made)}`),
      unproven: made.filter(({ evidence }) => !out.some((line) => evidence.test(line))).map(({ name }) => name),
      told: new Map(made.map(({ name }, index) => [name, `${told[2 * index]} / ${told[2 * index + 1]}`])),
    };
  } finally {
    for (const place of Object.values(places)) await endWatch(place);
  }
}

/** What out there was written before this is in the lab's output when it resolves. */
async function untilWritten(lab: NetworkLab): Promise<void> {
  const mark = `GET /written-${lab.worldOutput.length} `;
  const socket = connect(80, world.internet, () => socket.write(mark));
  socket.resume().on("error", () => undefined);
  await poll({ what: "the world's output", timeoutMs: 20_000 }, () => (lab.worldOutput.includes(mark) ? true : undefined));
  socket.destroy();
}

async function neighbours(namespace: string): Promise<string> {
  return run(["ip", "-netns", namespace, "neigh", "show", "dev", "tap0"]);
}

function hostAddresses(hostAddress: string): string[] {
  const own = Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).flatMap(({ family, address }) => (family === "IPv4" ? [address] : [])),
  );
  return [...new Set([hostAddress, ...own.filter((address) => !address.startsWith("127."))])];
}

/** Which attempt something comes from, where its port tells. */
function blame(line: string, made: readonly Attempt[]): string {
  const number = /\b(2\d{4})\b/.exec(line)?.[1];
  const attempt = number === undefined ? undefined : made.find(({ forbidden }) => forbidden.includes(number));
  return attempt === undefined ? "" : ` (${attempt.name})`;
}
