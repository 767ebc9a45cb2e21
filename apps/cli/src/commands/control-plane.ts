import { controlPlaneOptions } from "@roost/control-plane/options";
import type { AnyOptions } from "@roost/kit";

import type { CommandContext, CommonOptions } from "../context.ts";
import { UsageError } from "../failure.ts";
import { checkPort } from "../platform/checks.ts";
import { logOptions, refuseUnknownNames } from "../platform/platform-options.ts";
import { refuseToStart } from "../platform/refuse-to-start.ts";
import { runServer } from "../platform/run-server.ts";
import { apiKeyPath, clientOptions } from "../settings.ts";

/** Where hosts find a control plane of their own unless a setting says another port */
const hostsPortDefault = 7071;

export async function controlPlane(
  context: CommandContext,
  flags: CommonOptions & Readonly<Record<string, unknown>>,
  tables: readonly AnyOptions[],
): Promise<number> {
  const { environment } = context.io;
  refuseUnknownNames(environment, [...tables, clientOptions]);
  const given = controlPlaneOptions.read(environment, flags);
  const settings = { ...given, hostsPort: given.hostsPort ?? hostsPortDefault };
  const logSettings = logOptions.read(environment, flags);
  if (settings.databaseUrl === undefined) {
    throw new UsageError(
      "ROOST_DATABASE_URL is required: a control plane of its own keeps its records in PostgreSQL, as postgres://user:password@host/name",
      "`roost up` needs no database server: it is control plane and host in one",
    );
  }
  const { dir } = settings;
  refuseToStart([
    await checkPort({ host: settings.address, port: settings.port }),
    await checkPort({ host: settings.hostsAddress, port: settings.hostsPort }, "ROOST_HOSTS_PORT"),
  ]);
  const server = { dir, what: "the control plane", service: "roost-control-plane", log: logSettings, sandboxes: "leave" } as const;
  return runServer(context, server, async (log) => {
    const { startControlPlaneProcess } = await import("../platform/control-plane-process.ts");
    const running = await startControlPlaneProcess(settings, log);
    return {
      running,
      note: `Roost's API listens at ${running.url}; a key for it is in ${apiKeyPath(dir)}. Hosts register at port ${settings.hostsPort}.`,
    };
  });
}
