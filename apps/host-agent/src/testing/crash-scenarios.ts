import { guestAgentPort } from "@roost/contract";

import type { HostAgent } from "../host-agent.ts";
import { aSpec, type FakeHost } from "./fake-host.ts";
import { shellThrough } from "./guest-http-client.ts";

/** What is done to a sandbox, to be cut off at any of its steps. Used by the child that is killed and by the test that looks afterwards. */

export const crashOperations = ["pause", "checkpoint", "snapshot", "fork", "resume", "rollback", "rebase", "compaction", "delete"] as const;
export type CrashOperation = (typeof crashOperations)[number];

/** The parts of a host agent that a scenario needs, with fake or real VMs. */
export interface CrashHost {
  readonly client: FakeHost["client"];
  /** Has a program in the guest know a number: in its memory, and where there is one, in a file on its disk */
  tell(sandboxId: string, known: number): Promise<void>;
  /** What it knows; `disk` is undefined in a guest without one */
  ask(sandboxId: string): Promise<{ readonly memory: number; readonly disk: number | undefined }>;
}

export function fakeCrashHost(host: FakeHost): CrashHost {
  return {
    client: host.client,
    tell: async (sandboxId, known) => {
      const guest = host.guests.get(sandboxId);
      // More than what makes a rebase worth it
      if (guest !== undefined) guest.knowledge = { known, padding: "x".repeat(1_100_000 + known) };
    },
    ask: async (sandboxId) => ({ memory: Number(host.guests.get(sandboxId)?.knowledge["known"]), disk: undefined }),
  };
}

export function realCrashHost(agent: HostAgent, client: FakeHost["client"]): CrashHost {
  const shell = async (sandboxId: string, command: string) =>
    shellThrough(await agent.tunnels.connect(sandboxId, guestAgentPort), crashToken(sandboxId), command);
  return {
    client,
    tell: async (sandboxId, known) => void (await shell(sandboxId, `echo ${known} >/dev/shm/known; echo ${known} >/root/known; sync`)),
    ask: async (sandboxId) => {
      const [memory, disk] = (await shell(sandboxId, "cat /dev/shm/known /root/known")).trim().split("\n").map(Number);
      return { memory: memory ?? Number.NaN, disk };
    },
  };
}

/** The token of a sandbox follows from its id: who looks afterwards must know it too. */
export function crashToken(sandboxId: string): string {
  return `token-of-${sandboxId}`;
}

/**
 * Brings a sandbox to where the operation begins. It has two checkpoints, at which it knew 1 and 2; then it knows 3. For what works on paused ones it is
 * paused then.
 */
export async function prepareCrash(host: CrashHost, operation: CrashOperation, sandboxId: string, memoryMib: number): Promise<void> {
  await host.client.createSandbox({ spec: aSpec({ sandboxId, accessToken: crashToken(sandboxId), memoryMib }) });
  for (const known of [1, 2]) {
    await host.tell(sandboxId, known);
    await host.client.checkpointSandbox({ sandboxId });
  }
  await host.tell(sandboxId, 3);
  if (operation === "resume") await host.client.pauseSandbox({ sandboxId });
}

/** What may be known after the operation was cut off anywhere: the old or the new, and nothing else. */
export const knownAfter: Readonly<Record<CrashOperation, readonly number[]>> = {
  pause: [2, 3],
  checkpoint: [2, 3],
  snapshot: [2, 3],
  fork: [2, 3],
  resume: [3],
  rollback: [1, 2],
  rebase: [2, 3],
  compaction: [2, 3],
  delete: [2],
};

export const crashTemplate = "crash-template";

/** Does it. Upkeep and the tidying of a template go on in the background. */
export async function performCrash(
  host: CrashHost,
  operation: CrashOperation,
  sandboxId: string,
  children: readonly string[],
): Promise<void> {
  const { client } = host;
  switch (operation) {
    case "pause":
      await client.pauseSandbox({ sandboxId });
      return;
    case "checkpoint":
      await client.checkpointSandbox({ sandboxId });
      return;
    case "snapshot":
      await client.createTemplate({ sandboxId, name: crashTemplate });
      return;
    case "fork":
      await client.forkSandbox({ sandboxId, children: children.map((id) => ({ sandboxId: id, accessToken: crashToken(id), envs: {} })) });
      return;
    case "resume":
      await client.resumeSandbox({ sandboxId });
      return;
    case "rollback": {
      const { generations } = await client.listGenerations({ sandboxId });
      const oldest = generations.findLast(({ kind }) => kind === "checkpoint"); // newest first
      await client.rollbackSandbox({ sandboxId, generation: oldest?.number ?? 0 });
      return;
    }
    case "rebase":
    case "compaction":
      await client.pauseSandbox({ sandboxId }); // its upkeep follows in the background
      return;
    case "delete":
      await client.destroySandbox({ sandboxId });
  }
}

/** Settings that make upkeep have something to do. */
export function crashSettings(operation: CrashOperation, driver: "fake" | "qemu"): Record<string, unknown> {
  return {
    // Real guests start from memory: booting each would take minutes
    memoryImages: driver === "qemu" || operation === "snapshot" ? "true" : "false",
    poolSizes: "none",
    ...(operation === "rebase" ? { rebaseMib: 1 } : {}),
    layersMax: operation === "compaction" ? 1 : 32,
  };
}
