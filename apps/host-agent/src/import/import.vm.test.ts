import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import { guestAgentPort } from "@roost/contract";
import { HostAgentService, SandboxState, type ImportImageResponse_Image } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { MiB, must, run, silentLogger } from "@roost/kit";
import { listOwnedResources } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createHostAgent, type HostAgent } from "../host-agent.ts";
import { hostAgentOptions, imagesFolder } from "../options.ts";
import { aSpec } from "../testing/fake-host.ts";
import { failureOf } from "../testing/failure-of.ts";
import { shellThrough } from "../testing/guest-http-client.ts";
import { archivePartBytesMax } from "./limits.ts";
import { gzipLayer, rawTar, writeLayout, type RawEntry, type TestLayer } from "./testing/oci.ts";

const options = hostAgentOptions.read(process.env, { dir: "/nonexistent" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

/** The guest agent's own, for images that have none */
const agentShell = ["/run/roost/agent/bin/busybox", "sh"] as const;

describe.skipIf(!hasImages)("imported images in real VMs", () => {
  let scratch: string;
  let stateDir: string;
  let agent: HostAgent;
  let client: Client<typeof HostAgentService>;

  beforeAll(async () => {
    scratch = await mkdtemp(join(tmpdir(), "roost-import-"));
    stateDir = await mkdtemp(join(tmpdir(), "roost-agent-"));
    agent = await createHostAgent({ ...options, dir: stateDir, memoryImages: false }, { log: silentLogger });
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
    await rm(scratch, { recursive: true });
  });

  let count = 0;
  async function imported(layers: readonly TestLayer[], config: Record<string, unknown>): Promise<ImportImageResponse_Image> {
    count += 1;
    const layout = join(scratch, `layout-${count}`);
    await writeLayout(layout, { layers, config });
    await run(["tar", "-cf", `${layout}.tar`, "-C", layout, "."]);
    const data = await readFile(`${layout}.tar`);
    const archiveId = String(count).repeat(32);
    for (let offset = 0; offset < data.length; offset += archivePartBytesMax) {
      const part = data.subarray(offset, offset + archivePartBytesMax);
      await client.putArchivePart({ archiveId, offset: BigInt(offset), data: part, isLast: offset + part.length === data.length });
    }
    const phases = new Set<string>();
    let image: ImportImageResponse_Image | undefined;
    for await (const { event } of client.importImage({ source: { case: "archive", value: { archiveId } } })) {
      if (event.case === "progress") phases.add(event.value.phase);
      else if (event.case === "image") image = event.value;
    }
    expect(phases).toContain("unpack");
    return must(image, "the last answer is the image");
  }

  /** Boots a sandbox of a template and runs a command in it, as root. */
  async function said(template: string, command: string, shell: readonly [string, ...string[]]): Promise<string> {
    const spec = aSpec({ template });
    const { sandbox } = await client.createSandbox({ spec });
    expect(sandbox?.state).toBe(SandboxState.RUNNING);
    try {
      return await shellThrough(await agent.tunnels.connect(spec.sandboxId, guestAgentPort), spec.accessToken, command, { shell });
    } finally {
      await client.destroySandbox({ sandboxId: spec.sandboxId });
    }
  }

  test("one with a small libc and busybox boots, and its own programs run", async () => {
    const busybox = await readFile("/bin/busybox");
    const applets = ["sh", "id", "ls", "stat", "cat", "su"].map((name): RawEntry => ({ name: `bin/${name}`, type: "2", link: "busybox" }));
    const layers = [
      gzipLayer(
        rawTar([
          { name: "bin/", type: "5", mode: 0o755 },
          { name: "bin/busybox", data: busybox, mode: 0o755 },
          ...applets,
          { name: "etc/", type: "5", mode: 0o755 },
          { name: "etc/passwd", data: "root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/home/guest:/bin/sh\n" },
          { name: "etc/group", data: "root:x:0:\nusers:x:100:\n" },
        ]),
      ),
      gzipLayer(rawTar([{ name: "srv/data", data: "from the second layer", mode: 0o4750, uid: 405, gid: 100 }])),
    ];
    const image = await imported(layers, { User: "guest", Env: ["A=1"], Cmd: ["/bin/sh"] });
    expect(image).toMatchObject({ isNew: true, config: { user: "guest", envs: { A: "1" }, cmd: ["/bin/sh"] } });
    const { template } = await client.getTemplate({ name: image.template });
    expect(template).toMatchObject({ kind: "image", digest: image.digest, diskSizeMib: 10 * 1_024, hasMemory: false });
    const output = await said(
      image.template,
      "cat /srv/data; echo; stat -c '%a %u %g' /srv/data; id -u; ls -d /proc/self /sys/class /dev/null",
      ["/bin/sh"],
    );
    expect(output).toBe("from the second layer\n4750 405 100\n0\n/dev/null\n/proc/self\n/sys/class\n");
  });

  test("one without a shell, or any file that a system has, boots, and the guest agent's programs run", async () => {
    const image = await imported([gzipLayer(rawTar([{ name: "app", data: Buffer.alloc(2 * MiB, "app "), mode: 0o755 }]))], {
      Entrypoint: ["/app"],
    });
    const output = await said(
      image.template,
      "busybox=/run/roost/agent/bin/busybox; $busybox ls -l /app | $busybox cut -c 1-10; $busybox id -u",
      agentShell,
    );
    expect(output).toBe("-rwxr-xr-x\n0\n");
    expect((await client.listTemplates({})).templates.map(({ kind }) => kind)).toContain("image");
  });

  test("what cannot be imported is told over the wire", async () => {
    const answers = client.importImage({ source: { case: "registry", value: { reference: "127.0.0.1:1/no/registry" } } });
    const failure = await failureOf(
      answers[Symbol.asyncIterator]()
        .next()
        .then(async function drain(): Promise<void> {
          for await (const _answer of answers);
        }),
    );
    expect(failure.code).toBe("registry_unreachable");
  });
});
