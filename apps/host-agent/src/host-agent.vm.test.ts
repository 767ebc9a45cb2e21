import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import { guestAgentPort, newSandboxId } from "@roost/contract";
import { HostAgentService, SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { listOwnedResources } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createHostAgent, type HostAgent } from "./host-agent.ts";
import { hostAgentOptions, imagesFolder } from "./options.ts";
import { aSpec } from "./testing/fake-host.ts";
import { requestThrough, shellThrough } from "./testing/guest-http-client.ts";

const options = hostAgentOptions.read(process.env, { dir: "/nonexistent" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

describe.skipIf(!hasImages)("host agent with real VMs", () => {
  let stateDir: string;
  let agent: HostAgent;
  let client: Client<typeof HostAgentService>;

  async function startAgent(): Promise<void> {
    agent = await createHostAgent({ ...options, dir: stateDir }, { log: silentLogger });
    await agent.start();
    client = createClient(
      HostAgentService,
      createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
    );
  }

  async function vmPid(sandboxId: string): Promise<number> {
    const record = JSON.parse(await readFile(join(stateDir, "sandboxes", sandboxId, "sandbox.json"), "utf8")) as {
      vm: { vmm: { pid: number } };
    };
    return record.vm.vmm.pid;
  }

  const shell = async (spec: { sandboxId: string; accessToken: string }, command: string) =>
    shellThrough(await agent.tunnels.connect(spec.sandboxId, guestAgentPort), spec.accessToken, command);

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), "roost-agent-"));
    await startAgent();
  });

  afterAll(async () => {
    await agent.close({ stopSandboxes: true });
    const leaks = (await listOwnedResources(stateDir)).filter((line) => !line.startsWith("sandbox folder"));
    expect(leaks).toEqual([]);
    await rm(stateDir, { recursive: true });
  });

  test("boots a sandbox whose guest answers, knows who it is, and is closed to strangers", async () => {
    const spec = aSpec({ memoryMib: 512, envs: { GREETING: "hello" } });
    const { sandbox } = await client.createSandbox({ spec });
    expect(sandbox?.state).toBe(SandboxState.RUNNING);
    const seen = await shell(spec, 'echo "$GREETING $ROOST_SANDBOX_ID $(cat /proc/sys/kernel/hostname) $(uname -r)"');
    expect(seen).toBe(`hello ${spec.sandboxId} ${spec.sandboxId} ${sandbox?.versions["kernel"]}\n`);
    const stranger = await agent.tunnels.connect(spec.sandboxId, guestAgentPort);
    expect((await requestThrough(stranger, { path: "/metrics" })).status).toBe(401);
    const { memoryTotalBytes, diskTotalBytes } = await client.getMetrics({ sandboxId: spec.sandboxId, range: "5m" });
    expect(Number(memoryTotalBytes)).toBeGreaterThan(400 * 2 ** 20);
    expect(Number(diskTotalBytes)).toBeGreaterThan(2 ** 30);
    await client.destroySandbox({ sandboxId: spec.sandboxId });
    expect((await listOwnedResources(stateDir)).filter((line) => line.includes(spec.sandboxId))).toEqual([]);
  });

  test("the guest agent is killed: it comes back, keeps its token, and the sandbox stays running", async () => {
    const spec = aSpec();
    await client.createSandbox({ spec });
    // The answer to this is cut off with the agent that would have given it
    await shell(spec, "pkill -9 -f agent.mjs; sleep 5").catch((error: unknown) => error);
    const output = await poll({ what: "an answer of the new agent", timeoutMs: 60_000, intervalMs: 200 }, () => shell(spec, "echo back"));
    expect(output).toBe("back\n");
    const stranger = await agent.tunnels.connect(spec.sandboxId, guestAgentPort);
    expect((await requestThrough(stranger, { path: "/metrics" })).status).toBe(401);
    expect((await client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);

    // And the VMM is killed: the sandbox has failed, with how and with its last words
    process.kill(await vmPid(spec.sandboxId), "SIGKILL");
    const failed = await poll({ what: "the failed state", timeoutMs: 20_000 }, async () => {
      const { sandbox } = await client.getSandbox({ sandboxId: spec.sandboxId });
      return sandbox?.state === SandboxState.FAILED ? sandbox : undefined;
    });
    expect(failed.vmExit?.signal).toBe("SIGKILL");
    expect(failed.failureReason).toBe("the VM ended: its VMM was ended by SIGKILL");
    expect(failed.vmExit?.consoleTail.join("\n")).toContain("guest agent");
    await client.destroySandbox({ sandboxId: spec.sandboxId });
  });

  test("a sandbox that is destroyed while it boots leaves nothing", async () => {
    const spec = aSpec();
    const creating = client.createSandbox({ spec }).catch((error: unknown) => String(error));
    await poll({ what: "its VM", timeoutMs: 20_000 }, () => vmPid(spec.sandboxId));
    await client.destroySandbox({ sandboxId: spec.sandboxId });
    expect(await creating).toContain("deleted while it was being created");
    expect((await listOwnedResources(stateDir)).filter((line) => line.includes(spec.sandboxId))).toEqual([]);
  });

  test("the host agent is killed: sandboxes run on, are adopted and answer; the half-made one is undone", async () => {
    await agent.close({ stopSandboxes: true });
    const [kept, halfWay] = [newSandboxId(), newSandboxId()];
    const child = spawn(
      process.execPath,
      [
        "--conditions=@roost/source",
        "--import",
        "tsx",
        join(import.meta.dirname, "testing", "host-agent-child.ts"),
        stateDir,
        halfWay,
        kept,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await new Promise<void>((resolve, reject) => {
      child.stdout.once("data", () => resolve());
      child.once("exit", (code) => reject(new Error(`the child ended with ${code}`)));
    });
    await poll({ what: "the VM of the half-made sandbox", timeoutMs: 20_000 }, async () => {
      const processes = (await listOwnedResources(stateDir)).filter((line) => line.startsWith("process") && line.includes(halfWay));
      return processes.length > 0 ? true : undefined;
    });
    const ended = new Promise((resolve) => {
      child.once("exit", resolve);
    });
    child.kill("SIGKILL");
    await ended;

    await startAgent();
    const spec = { sandboxId: kept, accessToken: `token-of-${kept}` };
    expect((await client.getSandbox({ sandboxId: kept })).sandbox?.state).toBe(SandboxState.RUNNING);
    expect(await shell(spec, "echo still here")).toBe("still here\n");
    const { sandbox: undone } = await client.getSandbox({ sandboxId: halfWay });
    expect(undone).toMatchObject({ state: SandboxState.FAILED, failureReason: "the host agent ended while the sandbox was being created" });
    const left = await listOwnedResources(stateDir);
    expect(left.filter((line) => line.includes(halfWay))).toEqual([expect.stringContaining(`sandbox folder ${halfWay}`)]);
    await client.destroySandbox({ sandboxId: kept });
    await client.destroySandbox({ sandboxId: halfWay });
  });
});
