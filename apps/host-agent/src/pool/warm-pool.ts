import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { ServiceLoop, type Logger } from "@roost/kit";

import type { Generation } from "../memory/image-folder.ts";
import { closedEgress, openEgress } from "../network/egress-rules.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import type { SandboxRecord } from "../sandbox/sandbox-record.ts";
import { endStarted, startVm, type StartedVm } from "../sandbox/start-vm.ts";
import type { Sizes, Templates } from "../templates/templates.ts";

/** A VM that has answered and stands still, without identity. */
export interface PoolMember {
  readonly id: string;
  /** Holds an image folder and the VM's files; becomes the folder of a sandbox by a rename */
  readonly folder: string;
  readonly started: StartedVm;
  readonly sizes: Sizes;
  /** What it was restored from, in its folder */
  readonly generation: Generation;
  readonly origin: Partial<SandboxRecord>;
  readonly guestToken: string | null;
}

interface Shelf {
  readonly template: string;
  readonly size: number;
  /** Oldest first */
  readonly members: PoolMember[];
  /** Counts how often it was drained: a VM whose making began before is of what the template was then */
  epoch: number;
}

export interface WarmPoolParts {
  readonly context: SandboxContext;
  readonly templates: Templates;
  readonly folder: string;
  /** How many VMs wait, by template */
  readonly sizes: ReadonlyMap<string, number>;
  /** Whether the host has memory for one more, beside what its sandboxes need */
  readonly hasRoom: (memoryMib: number) => Promise<boolean>;
  readonly log: Logger;
}

/** Wait before the pool is looked at again when nothing pokes it, in `ms`. */
const lookIntervalMs = 30_000;
/** Wait before a VM that was taken is replaced, in `ms`. */
const refillDelayMs = 1_000;

/**
 * VMs that wait to be somebody: restored from a template's memory, answered once (so that their code is warm), then stopped. A create takes one,
 * which is then nobody else's; the pool fills up again in the background, one at a time, as long as memory allows.
 */
export class WarmPool {
  readonly #parts: WarmPoolParts;
  readonly #shelves = new Map<string, Shelf>();
  readonly #loop: ServiceLoop;
  readonly #abort = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #pokeTimer: NodeJS.Timeout | undefined;

  constructor(parts: WarmPoolParts) {
    this.#parts = parts;
    this.#loop = new ServiceLoop("warm pool", parts.log, this.#abort.signal);
  }

  /** Removes what an earlier host agent left, then begins to fill. Its VMs were swept before. */
  async start(): Promise<void> {
    const { folder, sizes } = this.#parts;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o711 });
    for (const [template, size] of sizes) {
      if (size > 0) this.#shelves.set(template, { template, size, members: [], epoch: 0 });
    }
    if (this.#shelves.size > 0) this.#running = this.#run();
  }

  /** Looks whether something is missing. */
  poke(): void {
    this.#loop.poke();
  }

  /** Who took a VM uses it now: on a machine with few CPUs its first command would wait for the next VM's start. */
  #pokeLater(): void {
    if (this.#pokeTimer !== undefined) return;
    this.#pokeTimer = setTimeout(() => {
      this.#pokeTimer = undefined;
      this.poke();
    }, refillDelayMs);
    this.#pokeTimer.unref();
  }

  /** A VM of this template and these sizes, now the caller's alone, who is also to take over what it holds of the capacity; undefined when none waits. */
  take(template: string, sizes: Sizes): PoolMember | undefined {
    const members = this.#shelves.get(template)?.members ?? [];
    const index = members.findIndex((member) => member.sizes.vcpus === sizes.vcpus && member.sizes.memoryMib === sizes.memoryMib);
    const [member] = index < 0 ? [] : members.splice(index, 1);
    if (member === undefined) return undefined;
    this.#pokeLater();
    return member;
  }

  /** Ends a VM that was taken and is not wanted after all. */
  async discard(member: PoolMember): Promise<void> {
    const { context, log } = this.#parts;
    context.capacity.release(member.id);
    try {
      await endStarted(member.started, context);
    } catch (error) {
      log.error({ err: error, id: member.id }, "a waiting VM could not be ended; the next start of the host agent sweeps it");
    }
    await rm(member.folder, { recursive: true, force: true });
  }

  /** Ends the waiting VMs of a template: it was deleted, or its images were replaced. They come back when it can be started from. */
  async drain(template: string): Promise<void> {
    const shelf = this.#shelves.get(template);
    if (shelf === undefined) return;
    shelf.epoch += 1;
    for (const member of shelf.members.splice(0)) await this.discard(member);
    this.poke();
  }

  async close(): Promise<void> {
    clearTimeout(this.#pokeTimer);
    this.#abort.abort(new PlatformError("shutting_down", "the host agent is shutting down"));
    await this.#running;
    for (const shelf of this.#shelves.values()) await this.drain(shelf.template);
  }

  async #run(): Promise<void> {
    while (this.#loop.shouldRun()) {
      try {
        await this.#fill();
        this.#loop.resetBackoff();
        await this.#loop.sleep(lookIntervalMs);
      } catch (error) {
        await this.#loop.backoff(error);
      }
    }
  }

  async #fill(): Promise<void> {
    for (const shelf of this.#shelves.values()) {
      while (this.#loop.shouldRun() && shelf.members.length < shelf.size) {
        const { epoch } = shelf;
        const member = await this.#make(shelf.template);
        if (member === undefined) break;
        if (!this.#loop.shouldRun() || shelf.epoch !== epoch) {
          await this.discard(member);
          continue;
        }
        shelf.members.push(member);
        void member.started.vm.exited.then(() => this.#drop(shelf, member));
      }
    }
  }

  /** A VM that ended while it waited; one that was taken is no longer on the shelf. */
  #drop(shelf: Shelf, member: PoolMember): void {
    const index = shelf.members.indexOf(member);
    if (index < 0) return;
    shelf.members.splice(index, 1);
    this.#parts.log.warn({ template: shelf.template, id: member.id }, "a waiting VM ended by itself");
    void this.discard(member).then(() => this.poke());
  }

  /** Undefined when there is nothing to make one of, or no room. */
  async #make(name: string): Promise<PoolMember | undefined> {
    const { context, templates, log } = this.#parts;
    const template = await templates.resolve(name).catch(() => undefined); // deleted
    if (template === undefined) return undefined;
    const sizes = templates.sizesFor(template, { vcpus: 0, memoryMib: 0 });
    if (!(await this.#parts.hasRoom(sizes.memoryMib))) return undefined;
    if (!(await templates.hasMemory(name, sizes))) {
      void templates.ensureBase(name, sizes); // pokes when it is there; does nothing for others
      return undefined;
    }
    const id = `p${randomBytes(10).toString("hex")}`;
    const folder = join(this.#parts.folder, id);
    await mkdir(folder, { mode: 0o711 });
    let started: StartedVm | undefined;
    try {
      context.capacity.reserve(id, sizes.memoryMib);
      const images = context.store.imagesAt(folder);
      await images.create();
      const beginning = await templates.begin(template, sizes, images, null, template.diskSizeMib);
      if (beginning.source.kind !== "restore")
        throw new PlatformError("sandbox_start_failed", "its template has no memory that fits this host");
      started = await startVm({
        // What runs in a snapshot's memory is not let out before somebody asked for it; and who does says what it may reach
        spec: { sandboxId: id, ...sizes, network: template.kind === "base" ? openEgress : closedEgress },
        context,
        source: beginning.source,
        images,
        vmFolder: join(folder, "vm"),
        keep: async () => undefined, // a crash leaves a process that the next start sweeps by its uid
        introduce: (client, signal) => client.prepare({ warmUp: "vm" }, signal),
        accessToken: beginning.guestToken,
        log,
        signal: this.#abort.signal,
      });
      await started.vm.stop();
      return {
        id,
        folder,
        started,
        sizes,
        generation: beginning.source.generation,
        origin: beginning.origin,
        guestToken: beginning.guestToken,
      };
    } catch (error) {
      context.capacity.release(id);
      if (started !== undefined) await endStarted(started, context);
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }
}
