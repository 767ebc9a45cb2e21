import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import { allTraffic, guestAgentPort } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { listOwnedResources, proxyServersScript } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createHostAgent, type HostAgent } from "./host-agent.ts";
import { hostAgentOptions, imagesFolder } from "./options.ts";
import { aSpec } from "./testing/fake-host.ts";
import { shellThrough } from "./testing/guest-http-client.ts";
import { NetworkLab, world } from "./testing/network-lab.ts";

const options = hostAgentOptions.read(process.env, { dir: "/nonexistent" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

/** The same policies as in `network/` and `egress/`, with a real guest, from its birth to its second host agent. */
describe.skipIf(!hasImages)("egress policies of real VMs", () => {
  let stateDir: string;
  let lab: NetworkLab;
  let agent: HostAgent;
  let client: Client<typeof HostAgentService>;
  const spec = aSpec({ memoryMib: 512, network: { allowOut: ["internet.test"], denyOut: [allTraffic] } });
  const { sandboxId } = spec;

  async function startAgent(): Promise<void> {
    agent = await createHostAgent(
      { ...options, dir: stateDir, guestDnsServers: [world.resolver], memoryImages: false },
      { log: silentLogger },
    );
    await agent.start();
    client = createClient(
      HostAgentService,
      createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
    );
  }

  /** What a server answers the guest, or curl's exit code. The world's servers do not speak HTTP, only read it. */
  const curl = async (target: string) => {
    const command = `curl -s -m 5 --http0.9 ${target} || echo "curl $?"`;
    return shellThrough(await agent.tunnels.connect(sandboxId, guestAgentPort), spec.accessToken, command);
  };
  const heldToNames = async () => {
    expect(await curl("http://internet.test/")).toMatch(/^world sees 11\.77\./);
    expect(await curl("http://elsewhere.test/"), "unknown").toContain("curl 6");
    const resolved = `--resolve elsewhere.test:80:${world.elsewhere} --resolve elsewhere.test:443:${world.elsewhere}`;
    expect(await curl(`${resolved} http://elsewhere.test/`)).toContain("does not allow elsewhere.test");
    expect(await curl(`${resolved} https://elsewhere.test/`), "a TLS error").toContain("curl 35");
    expect(await curl(`http://${world.elsewhere}:7/`)).toMatch(/^curl (?:7|28)/);
  };

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), "roost-egress-"));
    lab = await NetworkLab.create("regvm");
    await startAgent();
    await client.createSandbox({ spec });
  });

  afterAll(async () => {
    await agent?.close({ stopSandboxes: true });
    await lab?.[Symbol.asyncDispose]();
    const leaks = (await listOwnedResources(stateDir)).filter((line) => !line.startsWith("sandbox folder"));
    expect(leaks).toEqual([]);
    await rm(stateDir, { recursive: true });
  });

  test("names are allowed from the first moment on", heldToNames);

  test("after a pause and a resume it is as before", async () => {
    await client.pauseSandbox({ sandboxId });
    await client.resumeSandbox({ sandboxId });
    await heldToNames();
  });

  test("the next host agent takes the VM over with its policy", async () => {
    await agent.close({ stopSandboxes: false });
    await startAgent();
    await heldToNames();
  });

  test("a change is in force when it is answered", async () => {
    await client.setNetwork({ sandboxId, network: { allowOut: [world.elsewhere], denyOut: [allTraffic] } });
    expect(await curl(`http://${world.elsewhere}/`)).toBe("world sees 11.77.2.0\n");
    expect(await curl(`http://${world.internet}/`)).toMatch(/^curl 7/);
    await client.setNetwork({ sandboxId });
    expect(await curl("http://internet.test/")).toBe("world sees 11.77.2.0\n");
  });

  test("a proxy carries what is allowed, also for the next host agent and after a pause", async () => {
    const listeners = [{ protocol: "socks5", kind: "open", port: 1_080 }] as const;
    await using proxy = lab.beginInWorld(proxyServersScript({ listeners, address: world.proxies, names: {} }));
    await poll({ what: "the proxy", timeoutMs: 30_000 }, () => (proxy.output.includes("ready") ? true : undefined));
    const viaProxy = `world sees ${world.proxies}\n`;
    await client.setNetwork({
      sandboxId,
      network: { denyOut: [world.elsewhere], proxy: { protocol: "socks5", address: "proxies.test:1080" } },
    });
    expect(await curl("http://internet.test/")).toBe(viaProxy);
    expect(await curl(`http://${world.elsewhere}/`)).toMatch(/^curl 7/);
    await agent.close({ stopSandboxes: false });
    await startAgent();
    expect(await curl("http://internet.test/")).toBe(viaProxy);
    await client.pauseSandbox({ sandboxId });
    await client.resumeSandbox({ sandboxId });
    expect(await curl("http://internet.test/")).toBe(viaProxy);
  });
});
