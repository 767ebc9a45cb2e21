import { createHash } from "node:crypto";
import { mkdir, realpath } from "node:fs/promises";

/**
 * Names of everything an installation leaves in the kernel, derived from its state folder, so that two installations
 * (or a test beside a real one) on one machine never touch each other's, and a sweep knows its own.
 */
export interface Instance {
  /** State folder with all links resolved */
  readonly stateDir: string;
  /** Six hex digits of the state folder's digest */
  readonly tag: string;
}

/** Network interfaces have at most 15 characters: `rst`, tag, `v`, slot number of up to four digits. */
const tagLength = 6;

export async function openInstance(stateDir: string): Promise<Instance> {
  await mkdir(stateDir, { recursive: true, mode: 0o755 });
  return instanceOf(await realpath(stateDir));
}

/** `stateDir` must hold no symbolic links; `openInstance` resolves them. */
export function instanceOf(stateDir: string): Instance {
  return { stateDir, tag: createHash("sha256").update(stateDir).digest("hex").slice(0, tagLength) };
}

export const namespacePrefix = (instance: Instance) => `roost-${instance.tag}-`;
export const namespaceName = (instance: Instance, slot: number) => `${namespacePrefix(instance)}${slot}`;
export const vethPrefix = (instance: Pick<Instance, "tag">) => `rst${instance.tag}v`;
export const vethName = (instance: Instance, slot: number) => `${vethPrefix(instance)}${slot}`;
export const hostTableName = (instance: Instance) => `roost_${instance.tag}`;
export const lockNamePrefix = (tag: string) => `\0roost-host-agent-${tag}-`;
/** Abstract socket whose owner is the one host agent of the state folder. */
export const lockName = (instance: Instance) => (lockNamePrefix(instance.tag) + instance.stateDir).slice(0, 100);

/** Where `ip netns` keeps its namespaces. */
export const namespaceFolder = "/run/netns";
/** Each VM has a cgroup of this prefix and its sandbox's id. */
export const cgroupPrefix = (instance: Instance) => `roost-${instance.tag}-`;
