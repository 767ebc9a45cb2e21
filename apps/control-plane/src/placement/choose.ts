import { hostTakesSandboxes, vmOverheadMib, type HostState } from "@roost/contract";

import type { Taken } from "../db/reservations.ts";

/**
 * Which host gets a new sandbox. Pure: says in which order hosts are to be tried; whether there is room is decided where it is reserved, and in the end by the host.
 *
 * A host is able when it takes sandboxes, is reachable, is the team's or everybody's, has all tags that are asked for, the template, and room. Of those that
 * are able the one comes first that has most left: half of that is what it will have least of (memory, virtual CPUs, disk, count), which leaves no host with much of one thing
 * and nothing of another; half the average of all, which spreads sandboxes also where all hosts are short of the same (disks that are full of other things). A template that starts from memory there is worth as much as a quarter of a host. Who refused a moment ago comes last. Equals are ordered by a hash of host and sandbox, so
 * that two control planes do not send everything to the same one.
 */

export interface PlacementHost {
  readonly id: string;
  readonly state: HostState;
  /** Its lease has not ended */
  readonly isReachable: boolean;
  /** The team that alone gets sandboxes on it; null: all */
  readonly teamId: string | null;
  /** Those it was given, and what it is: `accelerator=kvm`, `arch=x64` */
  readonly tags: readonly string[];
  readonly capacity: HostCapacity;
  /** What is reserved of that */
  readonly taken: Taken;
  /** How it has what the sandbox starts from */
  readonly holds: "nothing" | "disk" | "memory";
  /** It refused a sandbox a moment ago: it is asked when no other has room */
  readonly hasRefused: boolean;
}

export interface HostCapacity {
  /** Cores, times how often each may be given away */
  readonly vcpus: number;
  /** That sandboxes may reserve */
  readonly memoryMib: number;
  readonly sandboxCount: number;
  readonly diskMib: number;
  readonly diskFreeMib: number;
}

export interface PlacementRequest {
  /** Of one of the sandboxes: decides between equals */
  readonly sandboxId: string;
  readonly teamId: string;
  /** Sandboxes of this size, all on one host */
  readonly count: number;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly tags: readonly string[];
}

/** Disk in `MiB` that a host keeps for saving what it has: new sandboxes are not given it, hosts refuse them, too */
const diskKeptMib = 2 * 1024;
/** What starting from memory is worth, as a share of a host */
const memoryWorth = 0.25;

export type Unable = "not-ready" | "unreachable" | "other-team" | "tags" | "template" | "room" | "too-large";

export interface Choice {
  /** The best first */
  readonly able: readonly PlacementHost[];
  /** Why the others are not */
  readonly unable: ReadonlyMap<string, Unable>;
}

export function choose(hosts: readonly PlacementHost[], request: PlacementRequest): Choice {
  const unable = new Map<string, Unable>();
  const rated: { readonly host: PlacementHost; readonly score: number; readonly hash: number }[] = [];
  for (const host of hosts) {
    const reason = whyUnable(host, request);
    if (reason !== undefined) unable.set(host.id, reason);
    else rated.push({ host, score: scoreOf(host, request), hash: hashOf(host.id + request.sandboxId) });
  }
  rated.sort(
    (a, b) =>
      Number(a.host.hasRefused) - Number(b.host.hasRefused) || b.score - a.score || a.hash - b.hash || (a.host.id < b.host.id ? -1 : 1),
  );
  return { able: rated.map(({ host }) => host), unable };
}

function whyUnable(host: PlacementHost, request: PlacementRequest): Unable | undefined {
  if (!hostTakesSandboxes(host.state)) return "not-ready";
  if (!host.isReachable) return "unreachable";
  if (host.teamId !== null && host.teamId !== request.teamId) return "other-team";
  if (!request.tags.every((tag) => host.tags.includes(tag))) return "tags";
  if (host.holds === "nothing") return "template";
  return whyNoRoom(host.capacity, host.taken, request);
}

export type RoomRequest = Pick<PlacementRequest, "count" | "vcpus" | "memoryMib">;

/** Why so much does not fit beside what is taken: `too-large` would not even if nothing were. Undefined: it fits. */
export function whyNoRoom(capacity: HostCapacity, taken: Taken, request: RoomRequest): "room" | "too-large" | undefined {
  const needed = neededFor(request);
  if (needed.memoryMib > capacity.memoryMib || needed.vcpus > capacity.vcpus || needed.count > capacity.sandboxCount) return "too-large";
  const fits =
    taken.memoryMib + needed.memoryMib <= capacity.memoryMib &&
    taken.vcpus + needed.vcpus <= capacity.vcpus &&
    taken.running + needed.count <= capacity.sandboxCount &&
    capacity.diskFreeMib >= diskKeptMib;
  return fits ? undefined : "room";
}

function neededFor({ count, vcpus, memoryMib }: RoomRequest) {
  return { count, vcpus: count * vcpus, memoryMib: count * (memoryMib + vmOverheadMib) };
}

function scoreOf({ capacity, taken, holds }: PlacementHost, request: PlacementRequest): number {
  const needed = neededFor(request);
  const left = [
    1 - (taken.memoryMib + needed.memoryMib) / capacity.memoryMib,
    1 - (taken.vcpus + needed.vcpus) / capacity.vcpus,
    1 - (taken.running + needed.count) / capacity.sandboxCount,
    capacity.diskMib === 0 ? 1 : capacity.diskFreeMib / capacity.diskMib,
  ];
  const average = left.reduce((sum, share) => sum + share, 0) / left.length;
  return (Math.min(...left) + average) / 2 + (holds === "memory" ? memoryWorth : 0);
}

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return hash >>> 0;
}
