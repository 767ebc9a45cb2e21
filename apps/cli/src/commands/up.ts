import type { AnyOptions } from "@roost/kit";
import { controlPlaneOptions } from "@roost/control-plane/options";
import { hostAgentOptions } from "@roost/host-agent/options";

import type { CommandContext, CommonOptions } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { withProgress } from "../output/progress.ts";
import { checkPort, requiredChecks } from "../platform/checks.ts";
import { logPath, startDetached } from "../platform/detach.ts";
import { e2bEnvironment, formatExports, formatExportsWithoutKey } from "../platform/e2b-environment.ts";
import { findRunning } from "../platform/endpoint.ts";
import { fateOf } from "../platform/sandbox-fate.ts";
import { alreadyRunning, runServer } from "../platform/run-server.ts";
import { refuseToStart } from "../platform/refuse-to-start.ts";
import { fateOptions, logOptions, refuseUnknownNames } from "../platform/platform-options.ts";
import { apiKeyPath, clientOptions, readApiKey } from "../settings.ts";

export interface UpFlags extends CommonOptions, Readonly<Record<string, unknown>> {
  readonly detach?: boolean;
}

export async function up(context: CommandContext, flags: UpFlags, tables: readonly AnyOptions[]): Promise<number> {
  const { environment } = context.io;
  refuseUnknownNames(environment, [...tables, clientOptions]);
  const settings = {
    controlPlane: controlPlaneOptions.read(environment, flags),
    hostAgent: hostAgentOptions.read(environment, flags),
    log: logOptions.read(environment, flags),
    fate: fateOptions.read(environment, flags),
  };
  const { dir, address, port } = settings.controlPlane;
  const running = await findRunning(dir);
  if (running !== undefined) {
    if (flags.detach !== true) throw alreadyRunning(dir, running.endpoint.pid);
    return announce(context, dir, running.endpoint, true);
  }
  const folders = { dir, cacheDir: settings.hostAgent.cacheDir };
  const { tls, tlsCert, tlsAddress, tlsPort } = settings.controlPlane;
  const tlsChecks = tls || tlsCert !== undefined ? [await checkPort({ host: tlsAddress, port: tlsPort }, "ROOST_TLS_PORT")] : [];
  refuseToStart([...(await requiredChecks(folders, { host: address, port })), ...tlsChecks]);

  if (flags.detach === true) {
    const given = flagsOf(flags, tables);
    const started = await withProgress(context, "starting the platform", async () => startDetached(dir, given, context.signal));
    return announce(context, dir, started.endpoint, false);
  }
  return serveHere(context, settings);
}

async function serveHere(
  context: CommandContext,
  settings: {
    readonly controlPlane: ReturnType<typeof controlPlaneOptions.read>;
    readonly hostAgent: ReturnType<typeof hostAgentOptions.read>;
    readonly log: ReturnType<typeof logOptions.read>;
    readonly fate: ReturnType<typeof fateOptions.read>;
  },
): Promise<number> {
  const { dir } = settings.controlPlane;
  const isDetached = settings.log.logFile !== undefined;
  const server = { dir, what: "the platform", service: "roost", log: settings.log, sandboxes: fateOf(settings.fate) } as const;
  return runServer(context, server, async (log) => {
    const { startPlatform } = await import("../platform/compose.ts");
    const running = await startPlatform(settings, log);
    return { running, note: isDetached ? undefined : await startedText(dir, running, context.io.stderr.isTTY === true) };
  });
}

async function startedText(
  dir: string,
  { url, tlsUrl }: { readonly url: string; readonly tlsUrl?: string | undefined },
  isTerminal: boolean,
): Promise<string> {
  const exports = await e2bExports(dir, url, isTerminal);
  const tls = tlsUrl === undefined ? "" : ` and ${tlsUrl}`;
  return `Roost listens at ${url}${tls}; its API key is in ${apiKeyPath(dir)}.\n${exports}\nCtrl-C ends it; sandboxes go on.`;
}

/** What the E2B SDK and CLI need to use this platform. The key itself is shown to a person only: other outputs are often kept as logs. */
async function e2bExports(dir: string, url: string, isTerminal: boolean): Promise<string> {
  const lines = isTerminal
    ? formatExports(e2bEnvironment({ url, apiKey: await readApiKey(dir) }), "sh")
    : formatExportsWithoutKey(dir, url);
  return `For the E2B SDK and CLI (\`roost e2b-env\` prints this again):\n${lines.replaceAll(/^/gm, "  ")}`;
}

async function announce(
  context: CommandContext,
  dir: string,
  endpoint: { readonly url: string; readonly tlsUrl?: string | undefined; readonly pid: number },
  wasRunning: boolean,
): Promise<number> {
  const { url, tlsUrl, pid } = endpoint;
  if (context.isJson)
    await context.printJson({ url, tls_url: tlsUrl, pid, api_key_path: apiKeyPath(dir), log_path: logPath(dir), was_running: wasRunning });
  else {
    await context.print(`Roost ${wasRunning ? "already runs" : "runs"} at ${url} (pid ${pid})`);
    if (tlsUrl !== undefined) await context.print(`TLS:     ${tlsUrl}`);
    await context.print(`API key: ${apiKeyPath(dir)}`);
    await context.print(`log:     ${logPath(dir)}`);
    await context.print(await e2bExports(dir, url, context.io.stdout.isTTY === true));
  }
  return exitCodes.ok;
}

/** The settings that were given as flags, as flags again; those from the environment are inherited. */
function flagsOf(flags: UpFlags, tables: readonly AnyOptions[]): string[] {
  const given: string[] = [];
  const seen = new Set<string>();
  for (const table of tables) {
    for (const key of table.keys) {
      const value = flags[key];
      if (seen.has(key) || value === undefined || key === "logFile") continue;
      seen.add(key);
      if (value === true) given.push(table.flagName(key));
      else if (typeof value === "string") given.push(table.flagName(key), value);
    }
  }
  return given;
}
