import { createHash, randomUUID } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";

import type { ServiceImpl } from "@connectrpc/connect";
import { memoryMibDefault, PlatformError, sandboxHasVm, vcpusDefault, vmOverheadMib, type GuestTunnels } from "@roost/contract";
import type { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { assert, Cleanup, MiB, must, second, Turns, writeFileDurably, type Logger } from "@roost/kit";

import { totalBytes } from "./disk/free-space.ts";
import { readEgressCa, UpstreamTrust } from "./egress/upstream-trust.ts";
import { HeldImages } from "./images/held-images.ts";
import { ImageCatalog } from "./images/image-catalog.ts";
import { runImportUpkeep } from "./import/import-upkeep.ts";
import { Importer } from "./import/importer.ts";
import { InstanceLock } from "./instance-lock.ts";
import { cgroupPrefix, openInstance, type Instance } from "./instance.ts";
import { LogStore } from "./logs/log-store.ts";
import { FileDigests } from "./memory/checksum.ts";
import type { ImageFolderOptions } from "./memory/image-folder.ts";
import { Sampler } from "./metrics/sampler.ts";
import { Arrivals } from "./move/arrivals.ts";
import { Departures } from "./move/departures.ts";
import { MovedImages } from "./move/moved-images.ts";
import { LinuxNetwork } from "./network/linux-network.ts";
import type { Network } from "./network/network.ts";
import { findResolvers } from "./network/resolvers.ts";
import { imagesFolder, machineSize, type HostAgentOptions } from "./options.ts";
import { WarmPool } from "./pool/warm-pool.ts";
import { reportFrom, type HostReport } from "./registration/host-report.ts";
import { createHostAgentService, describeTemplates } from "./rpc/host-agent-service.ts";
import { tracedService } from "./rpc/traced-service.ts";
import { availableMemoryMib, Capacity, checkAvailableMemory } from "./sandbox/capacity.ts";
import { timesOf, type SandboxContext, type SandboxTimes } from "./sandbox/context.ts";
import { createDisks, type Disks } from "./sandbox/disks.ts";
import { HostEvents } from "./sandbox/host-events.ts";
import { RecordStore } from "./sandbox/record-store.ts";
import { recover } from "./sandbox/recovery.ts";
import { SandboxManager } from "./sandbox/sandbox-manager.ts";
import type { SandboxRecord } from "./sandbox/sandbox-record.ts";
import { openRecordBox } from "./sandbox/sealed-record.ts";
import { startsAtOnce } from "./sandbox/starts-at-once.ts";
import { sweepCgroups, sweepProcesses } from "./sandbox/sweep.ts";
import { Watchers } from "./sandbox/watchers.ts";
import { MemoryImageCache } from "./templates/memory-image-cache.ts";
import { StepCache } from "./templates/step-cache.ts";
import { TemplateStore } from "./templates/template-store.ts";
import { Templates, type Sizes } from "./templates/templates.ts";
import { chooseAccelerator, type AcceleratorChoice } from "./vmm/accelerator.ts";
import type { VmFingerprint, VmmDriver } from "./vmm/driver.ts";
import { QemuDriver } from "./vmm/qemu/qemu-driver.ts";
import { ensureZeroMemory } from "./vmm/qemu/zero-memory.ts";

export const hostAgentVersion = "0.1.0";

interface Parts {
  readonly manager: SandboxManager;
  readonly templates: Templates;
  readonly pool: WarmPool;
  readonly importer: Importer;
  readonly sampler: Sampler;
  readonly departures: Departures;
  readonly arrivals: Arrivals;
}

export interface HostAgentDeps {
  readonly log: Logger;
  /** What tests put in the place of the real machine */
  readonly driver?: VmmDriver;
  readonly network?: Network;
  readonly disks?: Disks;
  readonly accelerator?: AcceleratorChoice;
  readonly times?: Partial<SandboxTimes>;
  readonly availableMemoryMib?: () => Promise<number>;
  readonly onStep?: SandboxContext["onStep"];
  readonly onDurableStep?: ImageFolderOptions["onStep"];
}

export interface HostAgent {
  /** `hostagent.v1`, for a Connect router */
  readonly service: ServiceImpl<typeof HostAgentService>;
  readonly tunnels: GuestTunnels;
  /** Takes over what an earlier host agent left, removes what nobody owns, then accepts work. */
  start(): Promise<void>;
  /** What it is, how much of it is in use, and how it is: for its control plane. */
  report(): Promise<HostReport>;
  /** Takes no new sandboxes; those that are there go on. */
  drain(): Promise<void>;
  /** Ends the host agent; its sandboxes run on and are adopted by the next, unless they should stop too. Idempotent. */
  close(options: { readonly stopSandboxes: boolean }): Promise<void>;
}

/** Builds the host agent of a state folder; rejects when another one works there. Nothing runs until `start()`. */
export async function createHostAgent(options: HostAgentOptions, deps: HostAgentDeps): Promise<HostAgent> {
  const { log } = deps;
  const instance = await openInstance(options.dir);
  await using cleanup = new Cleanup();
  const lock = await InstanceLock.take(instance);
  cleanup.defer("release the lock of the state folder", () => lock.release());

  const hostId = await readHostId(instance);
  const images = new ImageCatalog(imagesFolder(options));
  const memoryFolder = join(instance.stateDir, "memory");
  const driver = deps.driver ?? new QemuDriver({ memoryFolder, log });
  const network = deps.network ?? (await createNetwork(options, instance, log));
  const imageOptions: ImageFolderOptions = {
    log,
    digests: new FileDigests(),
    ...(deps.onDurableStep === undefined ? {} : { onStep: deps.onDurableStep }),
  };
  const heldImages = new HeldImages(join(instance.stateDir, "held-images"), log);
  const store = new RecordStore(instance.stateDir, imageOptions, await openRecordBox(join(instance.stateDir, "record-key")));
  const watchers = new Watchers<SandboxRecord>();
  const logs = new LogStore({
    root: join(instance.stateDir, "sandbox-logs"),
    retentionMs: options.logsRetentionSec * second,
    totalBytesMax: options.logsMaxMib * MiB,
    living: () => (parts === undefined ? undefined : new Set(parts.manager.list().map((sandbox) => sandbox.id))),
    log,
  });
  const events = new HostEvents({ path: join(instance.stateDir, "events.ndjson"), watchers, logs, log });
  const machine = machineSize();
  const capacity = new Capacity({
    sandboxCountMax: Math.min(options.sandboxCountMax, network.slotCountMax),
    memoryMib: Math.max(0, Math.trunc(machine.memoryMib * options.memoryOvercommit) - options.memoryReservedMib),
  });
  const availableMib = deps.availableMemoryMib ?? availableMemoryMib;
  const disks = deps.disks ?? createDisks(instance.stateDir);

  let parts: Parts | undefined;
  let accelerator: AcceleratorChoice | undefined;
  let closing: Promise<void> | undefined;
  let importUpkeep: Promise<void> | undefined;
  const closed = new AbortController();
  const running = () => {
    if (parts === undefined || closing !== undefined) {
      throw new PlatformError("shutting_down", "the host agent is not ready; try again in a moment", { retryAfterSec: 1 });
    }
    return parts;
  };

  async function start(): Promise<void> {
    assert(parts === undefined && closing === undefined, "a host agent is started once");
    accelerator = deps.accelerator ?? (await findAccelerator(options, instance, images, driver, log));
    log.info(
      { ...accelerator, stateDir: instance.stateDir, tag: instance.tag },
      `guests run with ${accelerator.accelerator}: ${accelerator.reason}`,
    );
    const context: SandboxContext = {
      driver,
      network,
      disks,
      images,
      heldImages,
      store,
      capacity,
      watchers,
      accelerator: accelerator.accelerator,
      startTurns: new Turns(startsAtOnce(accelerator.accelerator, machine.cpuCount)),
      restoreTurns: new Turns(4 * startsAtOnce(accelerator.accelerator, machine.cpuCount)),
      policy: { checkpointsKept: options.checkpointsKept, rebaseBytes: options.rebaseMib * MiB, layersMax: options.layersMax },
      checkRoom: async (memoryMib) => {
        await disks.check();
        await checkAvailableMemory(memoryMib, { reservedMib: options.memoryReservedMib, availableMib });
      },
      zeroMemory: (memoryMib) => ensureZeroMemory(memoryFolder, memoryMib),
      events,
      logs,
      times: { ...timesOf(accelerator.accelerator), pauseDrainMs: options.pauseDrainSec * 1_000, ...deps.times },
      cgroupOf: (sandboxId) => cgroupPrefix(instance) + sandboxId,
      log,
      ...(deps.onStep === undefined ? {} : { onStep: deps.onStep }),
    };
    const templateStore = new TemplateStore(join(instance.stateDir, "templates"), imageOptions, (step) => deps.onStep?.(step, ""));
    const importer = new Importer({
      stateDir: instance.stateDir,
      uid: options.uidBase + probeUidOffset,
      cacheMib: options.importCacheMib,
      importMaxMib: options.importMaxMib,
      importedMib: options.importedMib,
      registries: options.registries ?? null,
      insecureRegistries: options.insecureRegistries,
      checkRoom: (neededBytes) => disks.check(neededBytes),
      log,
    });
    const cache = new MemoryImageCache(
      { cacheRoot: join(options.cacheDir, "memory"), localRoot: join(instance.stateDir, "memory-images") },
      imageOptions,
    );
    const templates = new Templates({
      context,
      store: templateStore,
      imported: (name) => importer.template(name),
      steps: new StepCache({
        store: templateStore,
        bytesMax: options.buildCacheMib * MiB,
        onRemoved: (name) => templates.onReplaced(name),
        log,
      }),
      cache,
      buildsFolder: join(instance.stateDir, "builds"),
      buildsImages: options.memoryImages,
      log,
    });
    const pool = new WarmPool({
      context,
      templates,
      folder: join(instance.stateDir, "pool"),
      sizes: options.memoryImages ? options.poolSizes : new Map(),
      hasRoom: (memoryMib) => hasRoomToWait(memoryMib, capacity, options.memoryReservedMib, availableMib),
      log,
    });
    templates.onReplaced = (name) => void pool.drain(name);
    templates.onReady = () => pool.poke();
    const manager = new SandboxManager({
      context,
      templates,
      pool,
    });
    const movedImages = new MovedImages(join(instance.stateDir, "moved-images"), images, () =>
      importer.list().map(({ record, path }) => ({ path, digest: record.digest })),
    );
    const departures = new Departures(manager, context);
    const arrivals = new Arrivals({
      folder: join(instance.stateDir, "arrivals"),
      manager,
      context,
      images: movedImages,
      findBase: (digest, sizeBytes) => cache.findBase(digest, sizeBytes),
    });
    await arrivals.recover();
    events.open();
    await recover({
      context,
      manager,
      sweep: async (adopted) => {
        if (network.uidRange !== null) await sweepProcesses(network.uidRange, adopted, log);
        await sweepCgroups(cgroupPrefix(instance), adopted, log);
      },
      log,
    });
    await logs.start();
    const sampler = new Sampler(() => manager.list(), log);
    sampler.start();
    await rm(join(instance.stateDir, "builds"), { recursive: true, force: true });
    await templates.recover();
    await importer.recover();
    const neededImages = async () => [...(await manager.neededImages()), ...(await templates.neededImages())];
    const needed = await neededImages();
    await heldImages.holdOnly(needed);
    await movedImages.keepOnly(needed);
    importUpkeep = runImportUpkeep(importer, heldImages, neededImages, closed.signal, log);
    parts = { manager, templates, pool, importer, sampler, departures, arrivals };
    await pool.start();
    for (const base of await images.bases()) void templates.ensureBase(base.name, defaultSizes);
  }

  async function close(how: { readonly stopSandboxes: boolean }): Promise<void> {
    let failures = 0;
    closed.abort();
    await importUpkeep;
    if (parts !== undefined) {
      parts.arrivals.close();
      await parts.importer.close();
      await parts.sampler.close();
      await parts.templates.close();
      await parts.pool.close();
      if (how.stopSandboxes) failures = await parts.manager.stopAll();
      const left = await parts.manager.releaseAll();
      // With VMs left nothing of theirs may go: the next host agent adopts them
      await network.close({ remove: left === 0 && failures === 0 });
    }
    await events.durable();
    events.close();
    await logs.close();
    await lock.release();
    log.info({ stopSandboxes: how.stopSandboxes }, "the host agent has ended");
    if (failures > 0) throw new Error(`${failures} sandboxes could not be ended; the log says why`);
  }

  const describeHost = async () => {
    const choice = must(accelerator, "a started host agent knows its accelerator");
    const set = await images.images();
    return {
      hostId,
      agentVersion: hostAgentVersion,
      vmm: driver.name,
      vmmVersion: await driver.version(),
      accelerator: choice.accelerator,
      acceleratorReason: choice.reason,
      kernelVersion: set.kernel.version,
      cpuCount: machine.cpuCount,
      memoryMib: machine.memoryMib,
      memoryFreeMib: capacity.memoryFreeMib,
      memoryLimitMib: capacity.limits.memoryMib,
      diskFreeBytes: BigInt(Math.trunc(await disks.freeBytes())),
      sandboxCount: running()
        .manager.list()
        .filter((sandbox) => sandboxHasVm(sandbox.state)).length,
      sandboxCountMax: capacity.limits.sandboxCountMax,
      templates: await describeTemplates(running().templates, running().importer),
      diskTotalBytes: BigInt(Math.trunc(await totalBytes(instance.stateDir))),
      arch: process.arch,
      cpuLoad: loadavg()[0] ?? 0,
      memoryFingerprint: fingerprintText(await driver.fingerprint(choice.accelerator), process.arch),
    };
  };
  const service = tracedService(createHostAgentService({ running, watchers, events, logs, log, describeHost }));

  return cleanup.handOver<HostAgent>({
    service,
    tunnels: { connect: async (sandboxId, port, signal) => running().manager.get(sandboxId).connect(port, signal) },
    start,
    report: async () => reportFrom(await describeHost(), instance.stateDir),
    drain: async () => parts?.manager.drain(),
    close: (how) => (closing ??= close(how)),
  });
}

async function createNetwork(options: HostAgentOptions, instance: Instance, log: Logger): Promise<Network> {
  return new LinuxNetwork({
    instance,
    slotCidr: options.slotCidr,
    slotCount: options.sandboxCountMax,
    slotPoolSize: options.slotPoolSize,
    uidBase: options.uidBase,
    guestDnsServers: options.guestDnsServers ?? (await findResolvers()),
    egressProxyRanges: options.egressProxyRanges ?? [],
    upstreamTrust: new UpstreamTrust(options.egressCa === undefined ? [] : [await readEgressCa(options.egressCa)]),
    guestLimits: {
      mbitMax: options.guestMbitMax,
      connectionsMax: options.guestConnectionsMax,
      connectionsPerSecMax: options.guestConnectionsPerSecMax,
    },
    log,
  });
}

async function findAccelerator(
  options: HostAgentOptions,
  instance: Instance,
  images: ImageCatalog,
  driver: VmmDriver,
  log: Logger,
): Promise<AcceleratorChoice> {
  const { kernel } = await images.images();
  return chooseAccelerator({
    setting: options.accelerator,
    driver,
    kernel: { path: join(imagesFolder(options), kernel.path), digest: kernel.digest },
    stateDir: instance.stateDir,
    // The last of the uids: no slot uses it
    uid: options.uidBase + probeUidOffset,
    gid: options.uidBase + probeUidOffset,
    log,
  });
}

const probeUidOffset = 65_535;

/** What a sandbox of a base template gets that asks for nothing. */
const defaultSizes: Sizes = { vcpus: vcpusDefault, memoryMib: memoryMibDefault };

/** Equal where memory images of one host can go on at the other. */
function fingerprintText(fingerprint: VmFingerprint, arch: string): string {
  const said = JSON.stringify([arch, ...Object.entries(fingerprint).sort()]);
  return createHash("sha256").update(said).digest("hex").slice(0, 32);
}

/** A VM may wait when it leaves half of the memory to sandboxes that somebody asked for. */
async function hasRoomToWait(
  memoryMib: number,
  capacity: Capacity,
  reservedMib: number,
  available: () => Promise<number>,
): Promise<boolean> {
  const neededMib = memoryMib + vmOverheadMib;
  return capacity.memoryFreeMib - neededMib >= capacity.limits.memoryMib / 2 && (await available()) >= neededMib + reservedMib;
}

/** Random, and the same for the whole life of the state folder. */
async function readHostId(instance: Instance): Promise<string> {
  const path = join(instance.stateDir, "host-id");
  const present = (await readFile(path, "utf8").catch(() => "")).trim(); // absent on the first start
  if (/^[0-9a-f-]{36}$/.test(present)) return present;
  const hostId = randomUUID();
  await writeFileDurably(path, `${hostId}\n`);
  return hostId;
}
