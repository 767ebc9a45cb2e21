import type { Logger } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { version } from "../version.ts";

/** Traces of this process, where `OTEL_EXPORTER_OTLP_ENDPOINT` says whereto; undefined where it does not. Before the servers are made. */
export async function openTelemetry(context: CommandContext, serviceName: string, log: Logger): Promise<AsyncDisposable | undefined> {
  const { startTelemetry } = await import("@roost/kit/telemetry");
  return startTelemetry({ serviceName, serviceVersion: version, environment: context.io.environment, log });
}
