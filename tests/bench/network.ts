import { allTraffic, noLimits } from "@roost/contract";
import { EgressLab } from "@roost/host-agent/testing/egress-lab";
import { must, poll } from "@roost/kit";

import type { Bench, Group } from "./bench.ts";
import { timed } from "./measure.ts";
import { row } from "./report.ts";

const rulesMany = 1_000;
const limitMbit = 100;
/** Of one transfer in bytes: long enough for TCP to find its rate */
const transferBytes = 64 * 1024 * 1024;

/** What slots and policies cost a host, without VMs: the slots are real, and a namespace stands for the guest. */
export const networkGroup: Group = {
  name: "network",
  run: async (bench) => {
    await using lab = await EgressLab.create("bn", { slotCount: 64 });
    await slots(bench, lab);
    await policies(bench, lab);
    await throughput(bench, lab);
  },
};

async function slots(bench: Bench, { network }: EgressLab): Promise<void> {
  for (const atOnce of [1, 4]) {
    const rates: number[] = [];
    const releases: number[] = [];
    for (let round = 0; round < bench.samples(10); round += 1) {
      const made: Awaited<ReturnType<typeof network.acquire>>[] = [];
      const ms = await timed(async () => {
        for (let count = 0; count < 8; count += atOnce)
          made.push(...(await Promise.all(Array.from({ length: atOnce }, () => network.acquire()))));
      });
      rates.push(8 / (ms / 1_000));
      for (const slot of made) releases.push(await timed(() => network.release(slot)));
    }
    bench.report(row(`slots made per second, ${atOnce} at once`, "1/s", rates));
    if (atOnce === 1) bench.report(row("slot removed", "ms", releases));
  }
}

async function policies(bench: Bench, lab: EgressLab): Promise<void> {
  const { network, slot } = lab;
  /** Each differs from the one before, and no two of its entries merge into one. */
  const blocks = (count: number, round: number) =>
    Array.from({ length: count }, (_, index) => `11.${100 + (round % 2)}.${index >> 7}.${(index & 127) * 2}`);
  const names = (count: number, round: number) => Array.from({ length: count }, (_, index) => `n${index}.r${round % 2}.example.com`);
  const base = { allowOut: [], denyOut: [], proxy: null, rules: {}, limits: noLimits };
  const measure = async (make: (round: number) => Partial<typeof base> | object) => {
    const times: number[] = [];
    for (let round = 0; round <= bench.samples(100); round += 1) {
      const ms = await timed(() => network.setEgress(slot, { ...base, ...make(round) }));
      if (round > 0) times.push(ms); // the first one may open the gateway
    }
    return times;
  };
  const one = await measure((round) => ({ denyOut: blocks(1, round) }));
  const baseline = { name: "1 rule", values: one };
  bench.report(row("policy update, 1 rule", "ms", one));
  bench.report(
    row(`policy update, ${rulesMany} addresses denied`, "ms", await measure((round) => ({ denyOut: blocks(rulesMany, round) })), {
      baseline,
    }),
  );
  bench.report(
    row(
      `policy update, ${rulesMany} addresses and ${rulesMany} denied`,
      "ms",
      await measure((round) => ({ allowOut: blocks(rulesMany, round), denyOut: blocks(rulesMany, round + 1) })),
      { baseline },
    ),
  );
  const byName = await measure((round) => ({ allowOut: names(rulesMany, round), denyOut: [allTraffic] }));
  bench.report(row(`policy update, ${rulesMany} domains`, "ms", byName, { baseline }));
}

/** Reads all of a connection, then says how much it was. */
const sink = `
require("node:net").createServer({ allowHalfOpen: true }, (socket) => {
  let count = 0;
  socket.on("data", (chunk) => (count += chunk.length)).on("end", () => socket.end(String(count))).on("error", () => undefined);
}).listen(9000, "11.77.0.1", () => console.log("ready"));
`;
const send = `
const { connect } = require("node:net"), chunk = Buffer.alloc(65536);
const startMs = performance.now();
let left = ${transferBytes};
const socket = connect(9000, "11.77.0.1", fill);
function fill() { while (left > 0) { left -= chunk.length; if (!socket.write(chunk)) return void socket.once("drain", fill); } socket.end(); }
socket.on("data", (said) => console.log(Number(said) === ${transferBytes} ? (performance.now() - startMs) : "lost " + said));
`;

async function throughput(bench: Bench, lab: EgressLab): Promise<void> {
  await using program = lab.lab.beginInWorld(sink);
  await poll({ what: "the server out there", timeoutMs: 30_000 }, () => (program.output.includes("ready") ? true : undefined));
  const measure = async (limits: Partial<typeof noLimits>, count: number) => {
    await lab.setEgress({ allowOut: [], denyOut: [], proxy: null, rules: {}, limits: { ...noLimits, ...limits } });
    const rates: number[] = [];
    for (let sample = 0; sample < bench.samples(count); sample += 1) {
      const ms = Number(await lab.guest.run(send));
      rates.push((transferBytes * 8) / 1_000 / must(Number.isFinite(ms) ? ms : undefined, "a transfer that arrived whole"));
    }
    return rates;
  };
  const unlimited = await measure({}, 20);
  const baseline = { name: "no limit", values: unlimited };
  bench.report(row("TCP out of a slot, no limit", "Mbit/s", unlimited));
  bench.report(row("TCP out of a slot, limit far above", "Mbit/s", await measure({ outMbit: 100_000, inMbit: 100_000 }, 20), { baseline }));
  bench.report(row(`TCP out of a slot, limit ${limitMbit} Mbit/s`, "Mbit/s", await measure({ outMbit: limitMbit }, 5), { baseline }));
}
