import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport } from "@connectrpc/connect";
import { guestAgentPort } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";
import { listOwnedResources } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createHostAgent, type HostAgent } from "./host-agent.ts";
import { hostTableName, openInstance, type Instance } from "./instance.ts";
import { blocksOf, slotAddresses } from "./network/address-block.ts";
import { closedEgress } from "./network/egress-rules.ts";
import { hostAgentOptions, imagesFolder } from "./options.ts";
import { batteryGuest, batteryPolicy, runBattery } from "./testing/battery/battery.ts";
import { aSpec } from "./testing/fake-host.ts";
import { shellThrough } from "./testing/guest-http-client.ts";
import { NetworkLab, world } from "./testing/network-lab.ts";

const options = hostAgentOptions.read(process.env, { dir: "/nonexistent" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

/** Every way out of a guest that we know, tried by a real one that was paused and resumed. */
describe.skipIf(!hasImages)("ways out of a real guest", () => {
  let stateDir: string;
  let instance: Instance;
  let lab: NetworkLab;
  let agent: HostAgent;
  const spec = aSpec({ memoryMib: 512, network: { allowOut: [...batteryPolicy.allowOut], denyOut: [...batteryPolicy.denyOut] } });
  const otherSpec = aSpec({ memoryMib: 256, network: { allowOut: [], denyOut: [...closedEgress.denyOut] } });

  const guestOf = async (sandboxId: string) => {
    const read = async (...path: string[]) => JSON.parse(await readFile(join(stateDir, ...path), "utf8")) as Record<string, number>;
    const { slot = -1 } = await read("sandboxes", sandboxId, "sandbox.json");
    const block = blocksOf(options.slotCidr)[(await read("network.json"))["index"] ?? -1];
    if (block === undefined) throw new Error("the host agent has no addresses");
    return batteryGuest(instance, slot, slotAddresses(block, slot).inner);
  };

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), "roost-battery-"));
    instance = await openInstance(stateDir);
    lab = await NetworkLab.create("rbvm");
    agent = await createHostAgent(
      { ...options, dir: stateDir, guestDnsServers: [world.resolver], memoryImages: false },
      { log: silentLogger },
    );
    await agent.start();
    const client = createClient(
      HostAgentService,
      createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
    );
    await Promise.all([client.createSandbox({ spec }), client.createSandbox({ spec: otherSpec })]);
    await client.pauseSandbox({ sandboxId: spec.sandboxId });
    await client.resumeSandbox({ sandboxId: spec.sandboxId });
  });

  afterAll(async () => {
    await agent?.close({ stopSandboxes: true });
    await lab?.[Symbol.asyncDispose]();
    const leaks = (await listOwnedResources(stateDir)).filter((line) => !line.startsWith("sandbox folder"));
    expect(leaks).toEqual([]);
    await rm(stateDir, { recursive: true });
  });

  test("nothing that is forbidden leaves, and everything that is allowed does", async () => {
    const { attempts, leaks, unproven, told } = await runBattery({
      lab,
      guest: await guestOf(spec.sandboxId),
      other: await guestOf(otherSpec.sandboxId),
      tableName: hostTableName(instance),
      runInGuest: async (program, input) => {
        const shell = ["cat > /tmp/program.py <<'PROGRAM'", program, "PROGRAM", "python3 /tmp/program.py <<'INPUT'", input, "INPUT"];
        return shellThrough(await agent.tunnels.connect(spec.sandboxId, guestAgentPort), spec.accessToken, shell.join("\n"));
      },
    });
    expect(attempts.length).toBeGreaterThanOrEqual(100);
    expect(leaks).toEqual([]);
    expect(unproven.map((name) => `${name}: ${told.get(name)}`)).toEqual([]);
  });
});
