import { run } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { hostTableName, namespaceName } from "../instance.ts";
import { batteryGuest, batteryPolicy, runBattery } from "../testing/battery/battery.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { closedEgress } from "./egress-rules.ts";
import type { Slot } from "./network.ts";

let lab: EgressLab;
let other: Slot;

beforeAll(async () => {
  lab = await EgressLab.create("rb");
  ({ slot: other } = await lab.plug(1));
  await lab.network.setEgress(other, closedEgress);
});

afterAll(async () => lab?.[Symbol.asyncDispose]());

const described = ({ index, address }: Slot) => batteryGuest(lab.instance, index, address);

/** The battery that a real guest runs in `egress-battery.vm.test.ts`, in a namespace that stands for one. */
const battery = (only?: RegExp) =>
  runBattery({
    ...(only !== undefined && { only }),
    lab: lab.lab,
    guest: described(lab.slot),
    other: described(other),
    tableName: hostTableName(lab.instance),
    runInGuest: (program, input) => run(["nsenter", `--net=/run/netns/${lab.guest.namespace}`, "python3", "-c", program], { input }),
  });

test("nothing that is forbidden leaves, and everything that is allowed does", async () => {
  await lab.setEgress(batteryPolicy);
  const { attempts, leaks, unproven, told } = await battery();
  expect(attempts.length).toBeGreaterThanOrEqual(100);
  expect(leaks).toEqual([]);
  expect(unproven.map((name) => `${name}: ${told.get(name)}`)).toEqual([]);
});

test("what gets out where the rules are weak is noticed", async () => {
  await lab.setEgress({ ...batteryPolicy, allowOut: [...batteryPolicy.allowOut, "elsewhere.test", "*.elsewhere.test"] });
  const weaken = [
    "flush chain inet roost arrive",
    "flush chain inet roost from_guest",
    "add rule inet roost from_guest accept",
    "delete table arp roost",
  ];
  await run(["ip", "netns", "exec", namespaceName(lab.instance, lab.slot.index), "nft", "-f", "-"], { input: weaken.join("\n") });
  const { leaks } = await battery(
    /^an address|QUIC$|^fragments|timestamp|GRE|message in a name|^HTTP: another|^TLS: another|as source$|^metadata|^another guest|recorded|^ARP/,
  );
  for (const one of [
    /^world tcp 11\.77\.0\.2 \d+ \(an address in octal\)$/,
    /^world tcp 11\.77\.0\.2 \d+ \(an address mapped into IPv6\)$/,
    /^world udp 11\.77\.0\.2 \d+ \(QUIC\)$/,
    /^world udp 11\.77\.0\.2 \d+ \(fragments, the first without a whole header\)$/,
    /^world icmp 11\.77\.0\.2 13$/,
    /^world protocol 11\.77\.0\.2 47$/,
    /^asked 6578666974726174696f6e\.elsewhere\.test$/,
    /^tcp 11\.77\.0\.2 80 .*forbidden/,
    /^tcp 11\.77\.0\.2 443 /,
    /^slot source 11\.99\.9\.9$/,
    /^slot tcp 169\.254\.169\.254 80$/,
    /^slot tcp 198\.1\d\.\d+\.\d+ 49983$/,
    /^world udp 11\.77\.0\.3 \d+ \(a recorded route\)$/,
    /^slot neighbours$/,
  ])
    expect(leaks).toContainEqual(expect.stringMatching(one));
});
