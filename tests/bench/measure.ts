import type { Sandbox } from "@roost/contract";
import { sleep } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";

/** Time between samples in `ms`: what the last one left to be done in the background is not the next one's cost. */
export const restMs = 700;
export const rest = () => sleep(restMs);

/** Runs something and says how long it took in `ms`. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

/** A command whose output proves that the guest is there. */
export async function firstOutput(sandbox: SandboxHandle): Promise<void> {
  const { stdout } = await sandbox.exec("echo", { args: ["ready"] });
  if (stdout !== "ready\n") throw new Error(`${sandbox.id} printed ${JSON.stringify(stdout)} instead of "ready"`);
}

/** A row about one way to start must not hold samples of another. */
export function mustStartBy(path: "boot" | "restore" | "pool", { id, start_path: actual }: Pick<Sandbox, "id" | "start_path">): void {
  if (actual !== path) throw new Error(`${id} was started by "${actual}", and this row is about "${path}"`);
}

/** Works on all of them, at most `atOnce` at a time; the first failure ends it. */
export async function eachAtOnce<Item>(atOnce: number, items: Iterable<Item>, work: (item: Item) => Promise<void>): Promise<void> {
  const rest = items[Symbol.iterator]();
  const worker = async () => {
    for (let next = rest.next(); next.done !== true; next = rest.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}
