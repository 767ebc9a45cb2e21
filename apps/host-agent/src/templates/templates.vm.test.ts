import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import { guestAgentPort } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";
import { listOwnedResources } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createHostAgent, type HostAgent } from "../host-agent.ts";
import { hostAgentOptions, imagesFolder } from "../options.ts";
import { aSpec, type WireSpec } from "../testing/fake-host.ts";
import { shellThrough } from "../testing/guest-http-client.ts";

const options = hostAgentOptions.read(process.env, { dir: "/nonexistent", poolSizes: "none" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

const stepName = (index: number) => `step-${String(index).padStart(40, "0")}`;

describe.skipIf(!hasImages)("templates made of real VMs", () => {
  let stateDir: string;
  let agent: HostAgent;
  let client: Client<typeof HostAgentService>;

  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), "roost-templates-"));
    agent = await createHostAgent({ ...options, dir: stateDir }, { log: silentLogger });
    await agent.start();
    client = createClient(
      HostAgentService,
      createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
    );
  });

  afterAll(async () => {
    await agent.close({ stopSandboxes: true });
    const leaks = (await listOwnedResources(stateDir)).filter((line) => !line.startsWith("sandbox folder"));
    expect(leaks).toEqual([]);
    await rm(stateDir, { recursive: true });
  });

  async function start(given: Partial<WireSpec>): Promise<{ readonly spec: WireSpec; readonly startPath: string | undefined }> {
    const spec = aSpec({ memoryMib: 512, ...given });
    const { sandbox } = await client.createSandbox({ spec });
    return { spec, startPath: sandbox?.startPath };
  }

  async function shell(
    { sandboxId, accessToken }: WireSpec,
    command: string,
    as: { readonly asDefaultUser?: boolean } = {},
  ): Promise<string> {
    return shellThrough(await agent.tunnels.connect(sandboxId, guestAgentPort), accessToken, command, as);
  }

  test("a step has what was written right before it, and nothing of what came after; a build goes on in its memory, as its user", async () => {
    const first = await start({});
    for (const index of [1, 2]) {
      await shell(first.spec, `seq ${index}00000 > /srv/${index}; mkdir -p /srv/app; chown user /srv/app`);
      await client.createTemplate({ sandboxId: first.spec.sandboxId, name: stepName(index), kind: "step", memory: false });
    }
    await client.destroySandbox({ sandboxId: first.spec.sandboxId });

    const earlier = await start({ template: stepName(1) });
    expect(await shell(earlier.spec, "tail -qn1 /srv/1; ls /srv")).toBe("100000\n1\napp\n");
    await client.destroySandbox({ sandboxId: earlier.spec.sandboxId });

    const last = await start({ template: stepName(2), envs: { A: "of the build" } });
    expect(last.startPath).toBe("boot");
    expect(await shell(last.spec, "tail -qn1 /srv/1 /srv/2")).toBe("100000\n200000\n");
    await shell(last.spec, "setsid sh -c 'echo $$ > /dev/shm/server; exec sleep 1000' >/dev/null 2>&1 & sleep 0.2; echo late > /srv/late");
    const name = `build-${"a".repeat(32)}`;
    const defaults = { user: "user", workdir: "/srv/app", envs: { A: "of the template", B: "b" }, startCommand: "sleep 1000" };
    await client.createTemplate({ sandboxId: last.spec.sandboxId, name, kind: "build", memory: true, defaults });
    // The sandbox goes on as the one it was
    expect(await shell(last.spec, "hostname; echo $A; cat /srv/late")).toBe(`${last.spec.sandboxId}\nof the build\nlate\n`);
    const machineId = await shell(last.spec, "cat /etc/machine-id");
    expect(machineId).not.toMatch(/^0+$/);
    await client.destroySandbox({ sandboxId: last.spec.sandboxId });

    const sandbox = await start({ template: name, vcpus: 0, memoryMib: 0, envs: { B: "own" } });
    expect(sandbox.startPath).toBe("restore");
    const seen = await shell(
      sandbox.spec,
      "id -un; pwd; echo $A, $B; cat /srv/late; kill -0 $(cat /dev/shm/server) 2>&1 | grep -c permitted",
      {
        asDefaultUser: true,
      },
    );
    expect(seen).toBe("user\n/srv/app\nof the template, own\nlate\n1\n");
    expect(await shell(sandbox.spec, "cat /etc/machine-id")).not.toBe(machineId);
    expect(await shell(sandbox.spec, "cat /proc/$(cat /dev/shm/server)/comm; rm -r /srv/app")).toBe("sleep\n");
    // The default folder is gone: processes start in the home
    expect(await shell(sandbox.spec, "pwd", { asDefaultUser: true })).toBe("/home/user\n");
    await client.destroySandbox({ sandboxId: sandbox.spec.sandboxId });
  });
});
