import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { CommandError, run, writeFileDurably } from "@roost/kit";
import { z } from "zod";

import type { Instance } from "../instance.ts";

/**
 * The addresses of an installation's slots: one /21 out of a range that all installations on the machine share.
 *
 * The claim is an `unreachable` route for the block. Adding a route is atomic and fails when somebody else has it; it also
 * keeps a dial to a slot that does not exist from leaving through the default gateway. The block is written down, with the
 * boot it was claimed in, because the addresses of running sandboxes must survive a restart of the host agent.
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

const claimSchema = z.object({ formatVersion: z.literal(1), slotCidr: z.string(), index: z.int().min(0), bootId: z.string() });

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

export async function claimAddressBlock(instance: Instance, slotCidr: string): Promise<AddressBlock> {
  const claimPath = join(instance.stateDir, "network.json");
  const bootId = (await readFile("/proc/sys/kernel/random/boot_id", "latin1")).trim();
  const blocks = blocksOf(slotCidr);
  const earlier = await readClaim(claimPath);
  if (earlier?.bootId === bootId && earlier.slotCidr === slotCidr) {
    const block = blocks[earlier.index];
    if (block !== undefined) {
      await addClaimRoute(block); // there already, unless somebody removed it
      return block;
    }
  }
  const first = Number.parseInt(instance.tag, 16) % blocks.length;
  for (const block of [...blocks.slice(first), ...blocks.slice(0, first)]) {
    if (!(await addClaimRoute(block))) continue;
    const claim: z.infer<typeof claimSchema> = { formatVersion: 1, slotCidr, index: block.index, bootId };
    await writeFileDurably(claimPath, `${JSON.stringify(claim)}\n`);
    return block;
  }
  throw new Error(`all ${blocks.length} address blocks of ROOST_SLOT_CIDR=${slotCidr} are taken by other installations on this machine`);
}

export async function releaseAddressBlock(block: AddressBlock): Promise<void> {
  await run(["ip", "route", "del", "unreachable", block.cidr]).catch((error: unknown) => {
    if (!(error instanceof CommandError && error.stderr.includes("No such process"))) throw error; // ESRCH: gone already
  });
}

/** Whether the route was added; false when it exists. */
async function addClaimRoute(block: AddressBlock): Promise<boolean> {
  try {
    await run(["ip", "route", "add", "unreachable", block.cidr]);
    return true;
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes("File exists")) return false;
    throw error;
  }
}

async function readClaim(path: string): Promise<z.infer<typeof claimSchema> | undefined> {
  try {
    return claimSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    return undefined; // absent or unreadable: claim anew
  }
}
