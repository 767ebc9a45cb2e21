import { identifyProcess, must, withDeadline, type Logger } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { removeEndpoint, writeEndpoint } from "./endpoint.ts";
import { takeEndRequest } from "./end-request.ts";
import type { Platform } from "./compose.ts";

/** Time an orderly end may take in `ms` before it is forced; control plane and host agent have shorter ones inside. */
const endTimeoutMs = 90_000;

export interface ServeOptions {
  readonly dir: string;
  readonly stopSandboxes: boolean;
  /** A terminal that closes does not end a platform in the background. */
  readonly ignoresHangup: boolean;
}

/**
 * Announces a started platform and waits for its end. The first signal drains: no new work, requests in flight are
 * finished, then both servers end. A second one forces. Either way sandboxes go on unless it was asked otherwise.
 */
export async function serve(context: CommandContext, platform: Platform, options: ServeOptions, log: Logger): Promise<number> {
  const self = must(await identifyProcess(process.pid), "a process can identify itself");
  let forced: () => void = () => undefined;
  const forcedEnd = new Promise<"forced">((resolve) => {
    forced = () => resolve("forced");
  });
  const firstSignal = new Promise<string>((resolve) => {
    let count = 0;
    context.interrupts.take((signal) => {
      if (signal === "SIGHUP" && options.ignoresHangup) return;
      count += 1;
      if (count === 1) resolve(signal);
      else forced();
    });
  });
  await writeEndpoint(options.dir, platform.url);
  try {
    const signal = await firstSignal;
    const stopSandboxes = takeEndRequest(options.dir, self).stopSandboxes || options.stopSandboxes;
    log.info({ signal, stopSandboxes }, "ending; a second signal forces");
    const ended = withDeadline("the orderly end", endTimeoutMs, end(platform, stopSandboxes)).then(() => "ended" as const);
    const how = await Promise.race([ended, forcedEnd]);
    log.info({ how }, "ended");
    return how === "ended" ? exitCodes.ok : exitCodes.error;
  } finally {
    removeEndpoint(options.dir);
  }
}

async function end(platform: Platform, stopSandboxes: boolean): Promise<void> {
  await platform.drain();
  await platform.close({ stopSandboxes });
}
