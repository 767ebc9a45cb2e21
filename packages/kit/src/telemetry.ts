import { context, propagation, trace } from "@opentelemetry/api";

import { withDeadline } from "./deadline.ts";
import type { Logger } from "./logger.ts";
import { setTracer } from "./tracing.ts";
import { second } from "./units.ts";

/** Time that spans which were not sent yet have at the end, in `ms` */
const flushTimeoutMs = 5 * second;

export interface TelemetryOptions {
  readonly serviceName: string;
  readonly serviceVersion: string;
  /** Read from it: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. The SDK reads its other settings from the process's own */
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly log: Logger;
}

export interface Telemetry extends AsyncDisposable {
  /** Sends what is left; gives up after a while. */
  close(): Promise<void>;
}

/**
 * Collects traces from now on, and sends them where the environment says; undefined when it says nothing. Then not even the SDK is loaded. Call it
 * before anything is made that is to be traced.
 */
export async function startTelemetry({ serviceName, serviceVersion, environment, log }: TelemetryOptions): Promise<Telemetry | undefined> {
  const url = tracesUrl(environment);
  if (url === undefined) return undefined;
  const [{ BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, { resourceFromAttributes }] = await Promise.all([
    import("@opentelemetry/sdk-trace-node"),
    import("@opentelemetry/exporter-trace-otlp-http"),
    import("@opentelemetry/resources"),
  ]);
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ "service.name": serviceName, "service.version": serviceVersion }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url }))],
  });
  provider.register();
  setTracer(trace.getTracer("roost", serviceVersion));
  log.info({ url: new URL(url).origin }, "traces are sent");
  const close = async () => {
    setTracer(undefined);
    await withDeadline("sending the last traces", flushTimeoutMs, provider.shutdown()).catch((error: unknown) =>
      log.warn({ err: error }, "the last traces could not be sent"),
    );
    for (const api of [trace, context, propagation]) api.disable();
  };
  return { close, [Symbol.asyncDispose]: close };
}

/** As the OpenTelemetry specification has it: one for traces is used as it is, the common one is a base. */
function tracesUrl(environment: TelemetryOptions["environment"]): string | undefined {
  const own = environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
  if (own !== undefined && own !== "") return own;
  const base = environment["OTEL_EXPORTER_OTLP_ENDPOINT"];
  return base === undefined || base === "" ? undefined : `${base.replace(/\/+$/, "")}/v1/traces`;
}
