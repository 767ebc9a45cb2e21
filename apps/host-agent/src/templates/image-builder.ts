import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { Cleanup } from "@roost/kit";

import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import { rebase } from "../memory/rebase.ts";
import { openEgress } from "../network/egress-rules.ts";
import { bootSource } from "../sandbox/boot-source.ts";
import { captureGeneration } from "../sandbox/capture.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import { endStarted, startVm, type StartDisk } from "../sandbox/start-vm.ts";

export interface ImageBuild {
  /** Empty, or with the frozen layers of `disk` in its disk folder */
  readonly images: ImageFolder;
  readonly disk: StartDisk;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly signal: AbortSignal;
}

/**
 * Boots a disk and keeps it as a memory image: one generation whose memory is a base file of its own, of a guest that has answered, has run
 * what the first requests will need, and has no identity yet.
 */
export async function buildMemoryImage(build: ImageBuild, context: SandboxContext, buildsFolder: string): Promise<Generation> {
  const { images, disk, vcpus, memoryMib, signal } = build;
  const id = `b${randomBytes(10).toString("hex")}`;
  const folder = join(buildsFolder, id);
  await using cleanup = new Cleanup();
  context.capacity.reserve(id, memoryMib);
  cleanup.defer("release the memory", () => context.capacity.release(id));
  await mkdir(folder, { recursive: true, mode: 0o711 });
  cleanup.defer("remove the VM's files", () => rm(folder, { recursive: true, force: true }));
  const started = await startVm({
    spec: { sandboxId: id, vcpus, memoryMib, network: openEgress },
    context,
    source: await bootSource(context, { vcpus, memoryMib }, disk),
    images,
    vmFolder: join(folder, "vm"),
    keep: async () => undefined, // a crash leaves a process that the next start sweeps by its uid
    introduce: (client, until) => client.prepare({ warmUp: "template", forTemplate: true, sync: true }, until),
    accessToken: null,
    log: context.log,
    signal,
  });
  cleanup.defer("end the VM", () => endStarted(started, context));
  const { generation } = await captureGeneration({
    vm: started.vm,
    images,
    disks: context.disks,
    kind: "template",
    sandboxId: null,
    machine: started.machine,
    versions: started.versions,
    baseMemory: started.baseMemory,
    disk: { ...disk, layers: started.layers },
    live: null,
    onStep: async () => undefined,
    log: context.log,
  });
  await started.vm.kill();
  for (const layer of started.layers) await context.disks.freezeLayer(images.layerPath(layer));
  const rebased = await rebase(images, generation.number, { signal });
  await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } });
  return rebased;
}
