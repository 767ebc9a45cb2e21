import type { Logger } from "@roost/kit";

import type { RunningVm } from "./running-vm.ts";
import type { SandboxSpec } from "./sandbox-record.ts";

/**
 * What a guest does before it is captured and goes on. What is saved without memory has to be on its disk; so has what a build made, which may be booted
 * one day although it has memory (when that does not fit the host any more). `forBuild` also makes the first requests of a sandbox once, as is done for the
 * memory images of base templates: then what they need is in the memory that is saved, and need not be read or compiled by each sandbox anew.
 */
export async function prepareGuest(
  { client, signal }: Pick<RunningVm, "client" | "signal">,
  what: { readonly memory: boolean; readonly forBuild: boolean },
  log: Logger,
): Promise<void> {
  if (what.memory && what.forBuild) {
    await client.prepare({ warmUp: "template" }, signal).catch((error: unknown) => {
      log.warn({ err: error }, "a guest could not be warmed up for the template that is made of it: its sandboxes will be slower at first");
    });
  }
  if (!what.memory || what.forBuild) await client.prepare({ sync: true }, signal);
}

/** Time a guest has for it in `ms`: it was warmed up just now, and the sandbox's next request waits. */
const introduceTimeoutMs = 10_000;

/** After a capture for a build: the warm-up leaves machine id and clock wrong, and the sandbox goes on. */
export async function introduceAgain(
  { client, signal }: Pick<RunningVm, "client" | "signal">,
  spec: SandboxSpec,
  log: Logger,
): Promise<void> {
  await client.init(spec, AbortSignal.any([signal, AbortSignal.timeout(introduceTimeoutMs)])).catch((error: unknown) => {
    log.warn({ err: error }, "a guest was not told again who it is after it was captured");
  });
}
