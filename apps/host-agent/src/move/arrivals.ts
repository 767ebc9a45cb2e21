import { randomUUID } from "node:crypto";
import { chmod, copyFile, constants, link, mkdir, open, rm, type FileHandle } from "node:fs/promises";
import { dirname, join } from "node:path";

import { PlatformError } from "@roost/contract";
import { KiB, minute } from "@roost/kit";

import { authorityFor } from "../egress/sandbox-authority.ts";
import { writeFully } from "../memory/file-io.ts";
import { areZeros } from "../memory/zero-pages.ts";
import { diskError } from "../memory/image-damaged.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import type { AskedSpec, SandboxRecord } from "../sandbox/sandbox-record.ts";
import { describeMismatch } from "../sandbox/restorable.ts";
import { assemble } from "./assemble.ts";
import type { MovedImages } from "./moved-images.ts";
import { filesOf, readParcel, type MovedFile, type Parcel, type WireParcel } from "./parcel.ts";

/** Sandboxes that come at the same time */
const arrivalsMax = 8;
/** Time in `ms` after which one to which nothing came is given up */
const idleMs = 10 * minute;
/** Time between two looks for these in `ms` */
const idleLookMs = minute;
/** Zeros of this many `bytes` are not written: what comes is a megabyte at a time, most of it of sparse files */
const chunkBytes = 16 * KiB;

export interface AskedArrival {
  readonly moveId: string;
  readonly sandboxId: string;
  readonly parcel: WireParcel;
  /** As the control plane has it recorded; a host that says otherwise sends another sandbox */
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskSizeMib: number;
  readonly accessToken: string;
  readonly network: AskedSpec["network"];
}

export interface ArrivalsParts {
  /** Folder of its own, on the file system of the sandboxes */
  readonly folder: string;
  readonly manager: SandboxManager;
  readonly context: SandboxContext;
  readonly images: MovedImages;
  /** A base file of a base template with these bytes */
  readonly findBase: (digest: string, sizeBytes: number) => Promise<string | undefined>;
}

interface Arrival {
  readonly attemptId: string;
  readonly sandboxId: string;
  readonly parcel: Parcel;
  readonly folder: string;
  /** That are to come */
  readonly needed: ReadonlyMap<string, MovedFile>;
  /** Where images are that were here, by digest */
  readonly here: ReadonlyMap<string, string>;
  timeTouchedMs: number;
  /** What is done to it, one after the other */
  tail: Promise<unknown>;
}

/**
 * Sandboxes that come from other hosts. Until one is complete it is a folder among others of its kind, that the next start removes: nobody was told of it. What completes it is one rename, by
 * which it becomes a sandbox of this host that its move holds still (./transit.ts).
 *
 * The host that sends is not trusted: names of files are made here of what was checked, sizes are bounded by what the control plane knows of the sandbox, each byte is verified against
 * what was said of it before anything was sent, and of what is here already only what is everybody's anyway is used in place of what would be sent.
 */
export class Arrivals {
  readonly #parts: ArrivalsParts;
  readonly #arrivals = new Map<string, Arrival>();
  readonly #idleTimer: NodeJS.Timeout;

  constructor(parts: ArrivalsParts) {
    this.#parts = parts;
    this.#idleTimer = setInterval(() => {
      this.forgetIdle().catch((error: unknown) => parts.context.log.warn({ err: error }, "a sandbox that was coming could not be removed"));
    }, idleLookMs);
    this.#idleTimer.unref();
  }

  close(): void {
    clearInterval(this.#idleTimer);
  }

  /** At start: nothing of what was coming is of use. */
  async recover(): Promise<void> {
    await rm(this.#parts.folder, { recursive: true, force: true });
    await mkdir(this.#parts.folder, { recursive: true, mode: 0o711 });
  }

  /** Answers which files it needs; undefined: it is here already. */
  async begin(asked: AskedArrival): Promise<{ readonly attemptId: string; readonly needed: readonly string[] } | undefined> {
    const { manager, context } = this.#parts;
    if (this.#isHere(asked)) return undefined;
    await this.forget(asked.moveId);
    await this.forgetIdle();
    manager.refuseArrival(asked.sandboxId);
    if (this.#arrivals.size >= arrivalsMax) {
      throw new PlatformError("capacity_exhausted", `${arrivalsMax} sandboxes are coming to this host already; try again later`, {
        retryAfterSec: 10,
      });
    }
    const sent = readParcel(asked.parcel);
    checkAsked(sent, asked);
    const { proxy } = asked.network;
    if (proxy !== null) await context.network.checkProxy(proxy);
    const parcel = { ...sent, record: await withNetwork(sent.record, asked.network) };
    await this.#checkRestorable(parcel);
    const attemptId = randomUUID();
    const folder = join(this.#parts.folder, attemptId);
    try {
      const { needed, here } = await this.#prepare(parcel, folder);
      const arrival = {
        attemptId,
        sandboxId: asked.sandboxId,
        parcel,
        folder,
        needed,
        here,
        timeTouchedMs: Date.now(),
        tail: Promise.resolve(),
      };
      this.#arrivals.set(asked.moveId, arrival);
      return { attemptId, needed: [...needed.keys()] };
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw diskError(error);
    }
  }

  async write(
    moveId: string,
    part: { readonly attemptId: string; readonly file: string; readonly offset: number; readonly data: Uint8Array },
  ): Promise<void> {
    const arrival = this.#find(moveId, part.attemptId);
    const file = arrival.needed.get(part.file);
    if (file === undefined) throw new PlatformError("request_invalid", `file: ${part.file.slice(0, 200)} is not needed`);
    if (!Number.isSafeInteger(part.offset) || part.offset + part.data.length > file.sizeBytes) {
      throw new PlatformError(
        "request_invalid",
        `offset: ${part.data.length} bytes at ${part.offset} do not fit ${file.name}, which has ${file.sizeBytes}`,
      );
    }
    await this.#inTurn(arrival, async () => {
      await this.#parts.context.disks.check(part.data.length);
      const target = await open(join(arrival.folder, file.name), "r+");
      try {
        await writeSparsely(target, Buffer.from(part.data.buffer, part.data.byteOffset, part.data.length), part.offset);
      } finally {
        await target.close();
      }
    });
  }

  /** Verifies it and makes it a sandbox of this host. What is not as it was said is removed. */
  async complete(moveId: string, attemptId: string, sandboxId: string): Promise<SandboxRecord> {
    const { manager, context, images } = this.#parts;
    if (this.#isHere({ moveId, sandboxId })) return manager.get(sandboxId).record;
    const arrival = this.#find(moveId, attemptId);
    if (arrival.sandboxId !== sandboxId) throw new PlatformError("request_invalid", "sandbox_id: this move is another sandbox's");
    return this.#inTurn(arrival, async () => {
      let isAdopted = false;
      try {
        const paths = new Map(arrival.here);
        for (const file of arrival.needed.values()) {
          if (file.kind === "image") paths.set(file.digest, await images.take(join(arrival.folder, file.name), file.digest));
        }
        await rm(join(arrival.folder, "image"), { recursive: true, force: true });
        const { agentDisk } = await context.images.boot();
        const record = await assemble({ ...arrival, paths, agentDisk, moveId, context });
        manager.refuseArrival(sandboxId);
        await context.onStep?.("arrival:assembled", sandboxId);
        // before the sandbox is here: a start that finds it without would take it for a new one
        context.events.emit("sandbox.moved", { sandboxId, message: "sandbox was moved here from another host" });
        await context.events.durable();
        await context.store.adopt(arrival.folder, record);
        isAdopted = true;
        await context.onStep?.("arrival:adopted", sandboxId);
        const sandbox = manager.restore(record);
        this.#arrivals.delete(moveId);
        context.watchers.publish({ kind: "sandbox", view: sandbox.record });
        return sandbox.record;
      } catch (error) {
        await this.#remove(moveId, arrival);
        if (isAdopted && !manager.has(sandboxId)) await context.store.remove(sandboxId);
        if (error instanceof PlatformError) throw error;
        throw diskError(error);
      }
    });
  }

  /** Gives up what came of a move so far. */
  async forget(moveId: string): Promise<void> {
    const arrival = this.#arrivals.get(moveId);
    if (arrival === undefined) return;
    await this.#inTurn(arrival, async () => this.#remove(moveId, arrival));
  }

  #isHere({ moveId, sandboxId }: Pick<AskedArrival, "moveId" | "sandboxId">): boolean {
    const { manager } = this.#parts;
    return manager.has(sandboxId) && manager.get(sandboxId).record.transit?.moveId === moveId;
  }

  #find(moveId: string, attemptId: string): Arrival {
    const arrival = this.#arrivals.get(moveId);
    if (arrival?.attemptId !== attemptId) throw new PlatformError("sandbox_changed", "this sandbox is not coming any more: begin again");
    arrival.timeTouchedMs = Date.now();
    return arrival;
  }

  async #inTurn<Result>(arrival: Arrival, work: () => Promise<Result>): Promise<Result> {
    const mine = arrival.tail.then(work);
    arrival.tail = mine.catch(() => undefined); // its caller hears of it
    return mine;
  }

  async #remove(moveId: string, arrival: Arrival): Promise<void> {
    if (this.#arrivals.get(moveId) === arrival) this.#arrivals.delete(moveId);
    await rm(arrival.folder, { recursive: true, force: true });
  }

  /** Removes those to which nothing came for long. */
  async forgetIdle(nowMs = Date.now()): Promise<void> {
    for (const [moveId, arrival] of this.#arrivals) if (nowMs - arrival.timeTouchedMs > idleMs) await this.#remove(moveId, arrival);
  }

  /** What the fingerprint says; whether the agent disk is here is seen when it has come. */
  async #checkRestorable({ pointer, manifests }: Parcel): Promise<void> {
    const { context } = this.#parts;
    const current = manifests.find(({ generation }) => generation === pointer?.generation);
    if (current === undefined || current.memory === null) return;
    const present = await context.driver.fingerprint(context.accelerator);
    const baked = current.vm.fingerprint;
    for (const what of ["vmm", "vmmVersion", "accelerator", "machine", "cpu"] as const) {
      if (baked[what] === present[what]) continue;
      throw new PlatformError("image_incompatible", describeMismatch({ what, image: baked[what], host: present[what] }));
    }
  }

  /** Makes the folder, puts in what is here, and an empty file for each that is to come. */
  async #prepare(parcel: Parcel, folder: string): Promise<Pick<Arrival, "needed" | "here">> {
    const { context, images, findBase } = this.#parts;
    const here = new Map<string, string>();
    const needed = new Map<string, MovedFile>();
    let neededBytes = 0;
    await mkdir(folder, { mode: 0o711 });
    for (const part of ["disk", "memory", "generations", "image"]) await mkdir(join(folder, part), { mode: 0o700 });
    for (const file of filesOf(parcel).values()) {
      const path = join(folder, file.name);
      const present = file.kind === "image" ? await images.find(file.digest) : undefined;
      if (present !== undefined) {
        here.set(file.digest, present);
        continue;
      }
      const base = file.name.startsWith("memory/") ? await findBase(file.digest, file.sizeBytes) : undefined;
      if (base !== undefined) {
        await linkOrCopy(base, path);
        continue;
      }
      needed.set(file.name, file);
      neededBytes += Math.min(file.sizeBytes, parcel.sizes.get(file.name)?.dataBytes ?? file.sizeBytes);
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      const made = await open(path, "wx", 0o600);
      try {
        await made.truncate(file.sizeBytes);
      } finally {
        await made.close();
      }
    }
    await context.disks.check(neededBytes);
    return { needed, here };
  }
}

function checkAsked({ record }: Parcel, asked: AskedArrival): void {
  const { spec } = record;
  for (const what of ["sandboxId", "vcpus", "memoryMib", "diskSizeMib", "accessToken"] as const) {
    if (spec[what] === asked[what]) continue;
    const shown = what === "accessToken" ? "another" : `'${spec[what]}', not '${asked[what]}'`;
    throw new PlatformError("request_invalid", `parcel: the sandbox that the other host sends has ${shown} as its ${what}`);
  }
}

/** What its guest may reach is for the control plane to say. The authority that the guest trusts comes along, as long as it is for the same domains. */
async function withNetwork(record: SandboxRecord, network: AskedSpec["network"]): Promise<SandboxRecord> {
  const authority = await authorityFor(Object.keys(network.rules), record.spec.network.authority);
  return { ...record, spec: { ...record.spec, network: { ...network, authority } } };
}

/** A base template's file is on the same file system unless its cache is elsewhere. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  await link(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "EXDEV" && error.code !== "EMLINK") throw error;
    await copyFile(from, to, constants.COPYFILE_FICLONE);
    await chmod(to, 0o444);
  });
}

async function writeSparsely(file: FileHandle, data: Buffer, offset: number): Promise<void> {
  for (let from = 0; from < data.length;) {
    let to = from;
    while (to < data.length && !areZeros(data.subarray(to, to + chunkBytes))) to += chunkBytes;
    if (to > from) await writeFully(file, data.subarray(from, Math.min(to, data.length)), offset + from);
    from = Math.max(to, from) + (to < data.length ? chunkBytes : 0);
  }
}
