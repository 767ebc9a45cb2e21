import { identifyProcess, must, withDeadline, type Logger, type ProcessIdentity } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { removeEndpoint, writeEndpoint } from "./endpoint.ts";
import { pauseTimeoutMs, takeEndRequest, type SandboxFate } from "./end-request.ts";
import { writePauseReport, type PauseReport } from "./pause-report.ts";

/** Time an orderly end may take in `ms` before it is forced; control plane and host agent have shorter ones inside. */
const endTimeoutMs = 90_000;

/** What runs until a signal ends it. */
export interface Served {
  /** Where its API listens; null: it has none */
  readonly url: string | null;
  /** And where by TLS, if it does */
  readonly tlsUrl?: string | undefined;
  /** Takes no new work, finishes what runs. */
  drain(): Promise<void>;
  /** Pauses all sandboxes; those that cannot be paused go on. */
  pauseSandboxes(onProgress: (report: PauseReport) => Promise<void>): Promise<PauseReport>;
  /** Ends it; sandboxes go on unless they should end, too. */
  close(options: { readonly stopSandboxes: boolean }): Promise<void>;
}

export interface ServeOptions {
  readonly dir: string;
  /** What becomes of the sandboxes at the end, where `roost down` does not say otherwise */
  readonly sandboxes: SandboxFate;
  /** A terminal that closes does not end a platform in the background. */
  readonly ignoresHangup: boolean;
}

/**
 * Announces a started platform and waits for its end. The first signal drains: no new work, requests in flight are
 * finished, then both servers end. A second one forces. Either way sandboxes go on unless it was asked otherwise.
 */
export async function serve(context: CommandContext, platform: Served, options: ServeOptions, log: Logger): Promise<number> {
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
    if (context.signal.aborted) {
      count = 1;
      resolve("one that came while it started");
    }
  });
  if (platform.url !== null) await writeEndpoint(options.dir, platform.url, platform.tlsUrl);
  try {
    const signal = await firstSignal;
    const sandboxes = takeEndRequest(options.dir, self) ?? options.sandboxes;
    log.info({ signal, sandboxes }, "ending; a second signal forces");
    const timeoutMs = endTimeoutMs + (sandboxes === "pause" ? pauseTimeoutMs : 0);
    const pause = async () => pauseAll(platform, options.dir, self, log);
    const ended = withDeadline("the orderly end", timeoutMs, end(platform, sandboxes, pause)).then(() => "ended" as const);
    const how = await Promise.race([ended, forcedEnd]);
    log.info({ how }, "ended");
    return how === "ended" ? exitCodes.ok : exitCodes.error;
  } finally {
    if (platform.url !== null) removeEndpoint(options.dir);
  }
}

async function end(platform: Served, sandboxes: SandboxFate, pause: () => Promise<void>): Promise<void> {
  await platform.drain();
  if (sandboxes === "pause") await pause();
  await platform.close({ stopSandboxes: sandboxes === "stop" });
}

/** Sandboxes that cannot be paused go on, whatever the reason: the platform ends all the same, and says so. */
async function pauseAll(platform: Served, dir: string, self: ProcessIdentity, log: Logger): Promise<void> {
  try {
    const report = await platform.pauseSandboxes(async (progress) => writePauseReport(dir, self, progress));
    await writePauseReport(dir, self, report);
    log.info({ paused: report.paused, failed: report.failed }, "paused the sandboxes");
  } catch (error) {
    log.error({ err: error }, "the sandboxes could not be paused");
  }
}
