import { createHash } from "node:crypto";
import { access, chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import { guestAgentPort, newSandboxId, newToken, type ImageSet } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";

import { createHostAgent, type HostAgent, type HostAgentDeps } from "../host-agent.ts";
import { FakeNetwork } from "../network/fake-network.ts";
import { hostAgentOptions } from "../options.ts";
import type { Disks } from "../sandbox/disks.ts";
import { FakeDriver } from "../vmm/fake.ts";
import { GuestStandIn } from "./guest-stand-in.ts";

export interface WireSpec {
  sandboxId: string;
  template: string;
  templateName?: string;
  vcpus: number;
  memoryMib: number;
  diskSizeMib: number;
  timeoutSec: number;
  checkpointIntervalSec: number;
  envs: Record<string, string>;
  accessToken: string;
  network?: { allowOut: string[]; denyOut: string[]; proxy?: { protocol: string; address: string; username?: string; password?: string } };
  defaults?: { user?: string; workdir?: string; envs?: Record<string, string>; startCommand?: string; readyCommand?: string };
}

/**
 * A host without a kernel: a host agent with fake driver, network and disks over a real state folder. The fakes stand for the
 * machine, so they live on when the host agent is ended and another one is started.
 */
export class FakeHost implements AsyncDisposable {
  readonly folder: string;
  readonly driver: FakeDriver;
  readonly network: FakeNetwork;
  readonly #started = new Map<string, GuestStandIn>();
  /** The guest of a sandbox: of the VM that runs, else of the last one that was started for it */
  readonly guests = {
    get: (sandboxId: string): GuestStandIn | undefined =>
      (this.driver.guestOf(sandboxId) as GuestStandIn | undefined) ?? this.#started.get(sandboxId),
  };
  /** Prepares the guest of each VM before it starts */
  onGuest: (guest: GuestStandIn, sandboxId: string) => void = () => undefined;
  readonly deps: Partial<HostAgentDeps>;
  readonly settings: Record<string, unknown>;
  #agent: HostAgent | undefined;
  #client: Client<typeof HostAgentService> | undefined;

  private constructor(folder: string, options: { readonly deps: Partial<HostAgentDeps>; readonly settings: Record<string, unknown> }) {
    this.folder = folder;
    this.deps = options.deps;
    this.settings = options.settings;
    this.driver = new FakeDriver({
      startGuest: async (spec, memory) => {
        const guest = await GuestStandIn.start();
        guest.knowledge = { ...(memory as Record<string, unknown> | undefined) };
        this.onGuest(guest, spec.sandboxId);
        this.#started.set(spec.sandboxId, guest);
        return guest;
      },
    });
    this.network = new FakeNetwork({ slotCountMax: 32 });
    this.network.resolvePort = (slot, port) => {
      const running = this.driver.running.find((id) => this.driver.specOf(id)?.uid === slot.uid);
      return port === guestAgentPort && running !== undefined ? this.driver.guestOf(running)?.address?.port : undefined;
    };
  }

  static async start(
    options: {
      readonly deps?: Partial<HostAgentDeps>;
      readonly settings?: Record<string, unknown>;
      /** Of a host that was there before and whose VMs are gone; default: a new one */
      readonly folder?: string;
    } = {},
  ): Promise<FakeHost> {
    const folder = options.folder ?? (await mkdtemp(join(tmpdir(), "roost-host-")));
    const host = new FakeHost(folder, { deps: options.deps ?? {}, settings: options.settings ?? {} });
    await writeImages(join(folder, "cache", "images"));
    try {
      await host.startAgent();
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
    return host;
  }

  get agent(): HostAgent {
    if (this.#agent === undefined) throw new Error("the host agent was ended");
    return this.#agent;
  }

  get client(): Client<typeof HostAgentService> {
    if (this.#client === undefined) throw new Error("the host agent was ended");
    return this.#client;
  }

  /** The kinds of what it tells of a sandbox to somebody who hears of it for the first time. */
  async toldOf(sandboxId: string): Promise<string[]> {
    const kinds: string[] = [];
    const stop = new AbortController();
    for await (const { event } of this.client.watchSandboxes({}, { signal: stop.signal })) {
      if (event.case === "happened" && event.value.sandboxId === sandboxId) kinds.push(event.value.kind);
      if (event.case === "synced") break;
    }
    stop.abort();
    return kinds;
  }

  async startAgent(): Promise<void> {
    const options = hostAgentOptions.read(
      {},
      {
        dir: join(this.folder, "state"),
        cacheDir: join(this.folder, "cache"),
        memoryImages: "false", // sandboxes boot, unless a test wants memory
        ...this.settings,
      },
    );
    const agent = await createHostAgent(options, {
      log: silentLogger,
      driver: this.driver,
      network: this.network,
      disks: fakeDisks,
      accelerator: { accelerator: "tcg", reason: "tests" },
      availableMemoryMib: async () => 1_000_000,
      ...this.deps,
    });
    await agent.start();
    this.#agent = agent;
    this.#client = createClient(
      HostAgentService,
      createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
    );
  }

  async endAgent(options: { readonly stopSandboxes: boolean } = { stopSandboxes: false }): Promise<void> {
    await this.#agent?.close(options);
    this.#agent = undefined;
    this.#client = undefined;
  }

  /** What is left of sandboxes anywhere: VMs, slots, folders. */
  async leftovers(): Promise<string[]> {
    const folders = await readdir(join(this.folder, "state", "sandboxes"));
    return [
      ...this.driver.running.map((id) => `VM of ${id}`),
      ...[...this.network.lent].map((index) => `slot ${index}`),
      ...folders.map((name) => `folder ${name}`),
    ];
  }

  /** Layers that were merged and are there. */
  async mergeCount(): Promise<number> {
    const names = await readdir(join(this.folder, "state", "sandboxes"), { recursive: true });
    const layers = names
      .filter((name) => name.endsWith(".qcow2"))
      .map((name) => readFile(join(this.folder, "state", "sandboxes", name), "utf8"));
    return (await Promise.all(layers)).filter((content) => content === mergedLayers).length;
  }

  async hasFile(...path: string[]): Promise<boolean> {
    return access(join(this.folder, "state", ...path)).then(
      () => true,
      () => false,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.endAgent({ stopSandboxes: true });
    await rm(this.folder, { recursive: true, force: true });
  }
}

export function aSpec(given: Partial<WireSpec> = {}): WireSpec {
  return {
    sandboxId: newSandboxId(),
    template: "base",
    vcpus: 1,
    memoryMib: 256,
    diskSizeMib: 0,
    timeoutSec: 0,
    checkpointIntervalSec: 0,
    envs: {},
    accessToken: newToken(),
    ...given,
  };
}

const mergedLayers = "merged layers";

const fakeDisks: Disks = {
  check: async () => undefined,
  createLayer: async ({ path }) => writeFile(path, "layer"),
  freezeLayer: async (path) => chmod(path, 0o444),
  mergeLayers: async ({ output }) => writeFile(output, mergedLayers, { mode: 0o444 }),
  freeBytes: async () => 2 ** 40,
};

async function writeImages(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const file = (path: string) => ({ path, digest: `sha256:${createHash("sha256").update(path).digest("hex")}` });
  const images: ImageSet = {
    formatVersion: 1,
    kernel: { ...file("kernel"), version: "6.1.0-test" },
    initramfs: file("initramfs"),
    agentDisk: { ...file("agent"), agentVersion: "0.0.1" },
    templates: { base: { ...file("base.raw"), diskSizeMib: 1_024 } },
  };
  for (const { path } of [images.kernel, images.initramfs, images.agentDisk, ...Object.values(images.templates)])
    await writeFile(join(folder, path), path);
  await writeFile(join(folder, "images.json"), JSON.stringify(images));
}
