import { CommandError, run } from "@roost/kit";

import { gatewayAddress, gatewayMacAddress, guestAddress, guestMacAddress, guestPrefixLength, tapName } from "./network.ts";
import { egressRules, openEgress } from "./egress-rules.ts";
import { slotEgressChange, slotRuleset, type SlotEgress, type SlotPolicy } from "./policy.ts";

/** One of these commands takes milliseconds; longer in `ms` means that something in the kernel is stuck. */
const commandTimeoutMs = 20_000;
/** Times that the entries of a slot's connections are looked for, each of which deletes some */
const forgetTriesMax = 50;

/** Inside every namespace the veth has this name. */
export const uplinkName = "eth0";

export interface SlotPlan extends Omit<SlotPolicy, "uplink"> {
  readonly namespace: string;
  readonly veth: string;
  readonly uid: number;
}

/**
 * Makes a slot's namespace and all in it, with five processes in all: `ip -batch` for the host's half, then one shell
 * inside the namespace that runs another `ip -batch` and `nft -f`. About 25 ms.
 */
export async function makeSlot(plan: SlotPlan): Promise<void> {
  await run(["ip", "-batch", "-"], {
    timeoutMs: commandTimeoutMs,
    input: [
      `netns add ${plan.namespace}`,
      `link add ${plan.veth} type veth peer name ${uplinkName} netns ${plan.namespace}`,
      `link set ${plan.veth} addrgenmode none`, // no IPv6 link-local address
      `addr add ${plan.hostAddress}/31 dev ${plan.veth}`,
      `link set ${plan.veth} up`,
      "",
    ].join("\n"),
  });
  await run(["nsenter", `--net=/run/netns/${plan.namespace}`, "sh", "-e"], {
    timeoutMs: commandTimeoutMs,
    input: `
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv4/conf/all/accept_source_route
echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects
if [ -d /proc/sys/net/ipv6 ]; then
  echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
  echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
fi
nft -f - <<'END'
${slotRuleset({ ...plan, uplink: uplinkName }, { rules: egressRules(openEgress), listeners: null })}
END
ip -batch - <<'END'
${innerBatch(plan)}
END
`,
  });
}

/** The filter rules are in place before the first interface comes up. */
function innerBatch(plan: SlotPlan): string {
  return [
    "link set lo up",
    `addr add ${plan.innerAddress}/31 dev ${uplinkName}`,
    `link set ${uplinkName} up`,
    `route add default via ${plan.hostAddress}`,
    `tuntap add dev ${tapName} mode tap user ${plan.uid}`,
    `link set ${tapName} address ${gatewayMacAddress}`,
    `link set ${tapName} addrgenmode none`,
    `addr add ${gatewayAddress}/${guestPrefixLength} dev ${tapName}`,
    `link set ${tapName} up`,
    // A permanent entry: the first packet needs no ARP, and a guest cannot announce another address than its own
    `neigh replace ${guestAddress} lladdr ${guestMacAddress} dev ${tapName} nud permanent`,
  ].join("\n");
}

/** Puts another egress policy in force in a slot, in one transaction. `before` undefined: with all other rules, for a slot that an earlier host agent made. */
export async function setSlotEgress(plan: SlotPlan, egress: SlotEgress, before: SlotEgress | undefined): Promise<void> {
  const policy = { ...plan, uplink: uplinkName };
  const input = before === undefined ? slotRuleset(policy, egress) : slotEgressChange(policy, egress, before);
  await run(["nsenter", `--net=/run/netns/${plan.namespace}`, "nft", "-f", "-"], { timeoutMs: commandTimeoutMs, input });
}

/** Removes a slot, whole or half made. What is not there is fine. */
export async function removeSlot(plan: Pick<SlotPlan, "namespace" | "veth" | "innerAddress">): Promise<void> {
  // The veth first: its name is free when the command returns, while a namespace is taken down in the background
  await runUnlessAbsent(["ip", "link", "del", plan.veth], "Cannot find device");
  await forgetConnections(plan.innerAddress);
  await runUnlessAbsent(["ip", "netns", "del", plan.namespace], "No such file or directory");
}

/** The host's entries of a guest's connections would stay for days, in a table that all sandboxes share. No new ones come: the veth is gone. */
async function forgetConnections(innerAddress: string): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await runUnlessAbsent(["conntrack", "-D", "--orig-src", innerAddress], " 0 flow entries have been deleted"); // to find none is a failure to it
      return;
    } catch (error) {
      // One that ends by itself between being listed and being deleted stops it half-way
      const isRace = error instanceof CommandError && error.stderr.includes("such conntrack doesn't exist");
      if (!isRace || tries === forgetTriesMax) throw error;
    }
  }
}

async function runUnlessAbsent(command: readonly [string, ...string[]], absent: string): Promise<void> {
  try {
    await run(command, { timeoutMs: commandTimeoutMs });
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes(absent)) return;
    throw error;
  }
}
