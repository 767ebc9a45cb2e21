import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { CommandError, run, writeFileDurably, type Logger } from "@roost/kit";
import { z } from "zod";

import { lockNamePrefix, vethPrefix, type Instance } from "../instance.ts";
import { listInterfaces } from "./interface-names.ts";

/**
 * The addresses of an installation's slots: one /21 out of a range that all installations on the machine share.
 *
 * The claim is an `unreachable` route for the block. Adding a route is atomic and fails when somebody else has it; it lives
 * exactly as long as the boot, as VMs do; and it keeps a dial to a slot that does not exist from leaving through the default gateway. Whose
 * it is stands in its `window` attribute, a number of 32 bits that means nothing for a route without a device.
 */
export interface AddressBlock {
  /** Number of the block within the range; also chooses the uids */
  readonly index: number;
  readonly cidr: string;
  /** First address as a number */
  readonly base: number;
  readonly slotCountMax: number;
}

/** 2,048 addresses: two for each of 1,024 slots */
const blockPrefixLength = 21;
export const slotsPerBlock = 1_024;

/** What `network.json` says, for people and tests: the route is what counts. */
interface ClaimFile {
  readonly formatVersion: 1;
  readonly slotCidr: string;
  readonly index: number;
}

export function parseAddress(text: string): number {
  return text.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

export function formatAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.trunc(value / 2 ** shift) % 256).join(".");
}

/** All blocks of a range; a range smaller than a block is one block. */
export function blocksOf(slotCidr: string): AddressBlock[] {
  const [address = "", prefix = ""] = slotCidr.split("/");
  const rangePrefix = Number(prefix);
  const prefixLength = Math.max(rangePrefix, blockPrefixLength);
  const blockSize = 2 ** (32 - prefixLength);
  const base = Math.trunc(parseAddress(address) / 2 ** (32 - rangePrefix)) * 2 ** (32 - rangePrefix);
  return Array.from({ length: 2 ** (prefixLength - rangePrefix) }, (_, index) => ({
    index,
    base: base + index * blockSize,
    cidr: `${formatAddress(base + index * blockSize)}/${prefixLength}`,
    slotCountMax: Math.trunc(blockSize / 2),
  }));
}

/** The host's end and the namespace's end of a slot's veth pair: the two addresses of a /31. */
export function slotAddresses(block: AddressBlock, slot: number): { readonly host: string; readonly inner: string } {
  return { host: formatAddress(block.base + slot * 2), inner: formatAddress(block.base + slot * 2 + 1) };
}

interface Claim {
  readonly cidr: string;
  readonly tag: string;
}

export interface ClaimOptions {
  readonly slotCidr: string;
  /** Whether sandboxes run whose addresses are in the block claimed before */
  readonly hasSlotsInUse: boolean;
  readonly log: Logger;
}

export async function claimAddressBlock(instance: Instance, options: ClaimOptions): Promise<AddressBlock> {
  const { slotCidr, log } = options;
  const blocks = blocksOf(slotCidr);
  const block =
    (await findOwn(instance, blocks, options)) ?? (await claimFree(instance, blocks)) ?? (await claimAbandoned(instance, blocks, log));
  if (block === undefined) {
    throw new Error(`all ${blocks.length} address blocks of ROOST_SLOT_CIDR=${slotCidr} are taken by other installations on this machine`);
  }
  const claim: ClaimFile = { formatVersion: 1, slotCidr, index: block.index };
  await writeFileDurably(join(instance.stateDir, "network.json"), `${JSON.stringify(claim)}\n`);
  return block;
}

export async function releaseAddressBlock(block: AddressBlock): Promise<void> {
  await deleteRoute(block.cidr);
}

/** The block that an earlier host agent of this installation claimed: addresses of running sandboxes must not change. */
async function findOwn(instance: Instance, blocks: readonly AddressBlock[], options: ClaimOptions): Promise<AddressBlock | undefined> {
  const own = (await listClaims()).find((claim) => claim.tag === instance.tag);
  if (own === undefined) return undefined;
  const block = blocks.find((candidate) => candidate.cidr === own.cidr);
  if (block !== undefined) return block;
  if (options.hasSlotsInUse) {
    throw new Error(
      `ROOST_SLOT_CIDR=${options.slotCidr} does not hold ${own.cidr}, where sandboxes run: end them first, or change it back`,
    );
  }
  await deleteRoute(own.cidr);
  return undefined;
}

async function claimFree(instance: Instance, blocks: readonly AddressBlock[]): Promise<AddressBlock | undefined> {
  // Each installation begins elsewhere, so that a small number of them seldom meet
  const first = Number.parseInt(instance.tag, 16) % blocks.length;
  for (const block of [...blocks.slice(first), ...blocks.slice(0, first)]) {
    if (await addRoute(instance, block)) return block;
  }
  return undefined;
}

/** A block whose installation was removed without being ended: no host agent of it runs, and it has no slots. */
async function claimAbandoned(instance: Instance, blocks: readonly AddressBlock[], log: Logger): Promise<AddressBlock | undefined> {
  const sockets = await readFile("/proc/net/unix", "latin1");
  const links = await listInterfaces();
  for (const { cidr, tag } of await listClaims()) {
    const block = blocks.find((candidate) => candidate.cidr === cidr);
    if (block === undefined) continue;
    if (sockets.includes(lockNamePrefix(tag).replace("\0", "@")) || links.some((name) => name.startsWith(vethPrefix({ tag })))) continue;
    log.info({ cidr, tag }, "taking over the address block of an installation that is gone");
    await deleteRoute(cidr);
    if (await addRoute(instance, block)) return block;
  }
  return undefined;
}

const routesSchema = z.array(z.object({ dst: z.string(), metrics: z.array(z.object({ window: z.number().optional() })).optional() }));

async function listClaims(): Promise<Claim[]> {
  const routes = routesSchema.parse(JSON.parse((await run(["ip", "-json", "route", "show", "type", "unreachable"])) || "[]"));
  return routes.flatMap(({ dst, metrics }) => {
    const owner = metrics?.[0]?.window;
    return owner === undefined ? [] : [{ cidr: dst, tag: tagOf(owner) }];
  });
}

/** Not 0: the kernel leaves such an attribute out. */
const ownerNumber = (tag: string) => Number.parseInt(tag, 16) + 1;
const tagOf = (owner: number) => (owner - 1).toString(16).padStart(6, "0");

/** Whether the route was added; false when it exists. */
async function addRoute(instance: Instance, block: AddressBlock): Promise<boolean> {
  try {
    await run(["ip", "route", "add", "unreachable", block.cidr, "window", String(ownerNumber(instance.tag))]);
    return true;
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes("File exists")) return false;
    throw error;
  }
}

async function deleteRoute(cidr: string): Promise<void> {
  await run(["ip", "route", "del", "unreachable", cidr]).catch((error: unknown) => {
    if (!(error instanceof CommandError && error.stderr.includes("No such process"))) throw error; // ESRCH: gone already
  });
}
