import { rm } from "node:fs/promises";

import type { Logger } from "@roost/kit";

import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import type { PoolMember } from "../pool/warm-pool.ts";
import type { ResolvedTemplate, Templates } from "../templates/templates.ts";
import type { SandboxContext } from "./context.ts";
import { GuestClient } from "../guest/guest-client.ts";
import type { SandboxRecord, SandboxSpec } from "./sandbox-record.ts";
import type { CreatedVm, StartCall } from "./create-in-flight.ts";
import { pausedAt } from "./paused-at.ts";
import { endStarted, savedDisk, startVm, type StartSource } from "./start-vm.ts";

/** The ways in which a sandbox comes to its first VM. Each undoes what it did when it fails. */

export interface StartParts {
  readonly spec: SandboxSpec;
  readonly context: SandboxContext;
  readonly log: Logger;
}

/** From a template's memory, or by a boot of its disk. */
export function fromTemplate(parts: StartParts, template: ResolvedTemplate, templates: Templates) {
  return async (call: StartCall): Promise<CreatedVm> => {
    const { spec, context } = parts;
    const images = context.store.images(spec.sandboxId);
    call.signal.throwIfAborted();
    await context.onStep?.("link-image", spec.sandboxId);
    await images.create();
    const diskSizeMib = spec.diskSizeMib === 0 ? template.diskSizeMib : spec.diskSizeMib;
    const beginning = await templates.begin(template, spec, images, spec.sandboxId, diskSizeMib);
    return start(parts, call, images, beginning.source, beginning.origin, beginning.guestToken);
  };
}

/** From a generation of another sandbox, which `images` holds already. */
export function fromFork(parts: StartParts, generation: Generation, parentToken: string) {
  return async (call: StartCall): Promise<CreatedVm> => {
    const { spec, context } = parts;
    const { layers: _, ...disk } = savedDisk(generation);
    return start(parts, call, context.store.images(spec.sandboxId), { kind: "restore", generation }, { disk }, parentToken);
  };
}

/** From a VM that was waiting; when that fails, as `otherwise` does. */
export function fromPool(parts: StartParts, member: PoolMember, otherwise: (call: StartCall) => Promise<CreatedVm>) {
  return async (call: StartCall): Promise<CreatedVm> => {
    const { spec, context, log } = parts;
    const { vm, slot } = member.started;
    try {
      vm.moveTo({ sandboxId: spec.sandboxId, folder: context.store.vmFolder(spec.sandboxId) });
      await context.network.setEgress(slot, spec.network);
      await vm.continue();
      const client = new GuestClient((port, dial) => context.network.dial(slot, port, dial), spec.accessToken);
      await client.init(spec, call.signal, { presentToken: member.guestToken });
      return { started: member.started, startPath: "pool", origin: { ...member.origin, ...pausedAt(member.generation) } };
    } catch (error) {
      log.warn({ err: error }, "a VM from the warm pool did not take its identity; starting another one");
      await endStarted(member.started, context);
      await rm(context.store.vmFolder(spec.sandboxId), { recursive: true, force: true });
      await context.store.removeImages(spec.sandboxId);
      call.signal.throwIfAborted();
      return otherwise(call);
    }
  };
}

async function start(
  parts: StartParts,
  call: StartCall,
  images: ImageFolder,
  source: StartSource,
  origin: Partial<SandboxRecord>,
  presentToken: string | null,
): Promise<CreatedVm> {
  const { spec, context, log } = parts;
  const started = await startVm({
    spec,
    context,
    source,
    images,
    vmFolder: context.store.vmFolder(spec.sandboxId),
    keep: (traces) => call.keep({ ...traces, layers: [...traces.layers] }),
    introduce: (client, signal) => client.init(spec, signal, { presentToken }),
    accessToken: spec.accessToken,
    log,
    signal: call.signal,
  });
  const generation = source.kind === "restore" ? source.generation : await images.current();
  return { started, startPath: source.kind, origin: { ...origin, ...(generation === null ? {} : pausedAt(generation)) } };
}
