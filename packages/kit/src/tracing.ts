import {
  context,
  propagation,
  SpanKind,
  SpanStatusCode,
  trace,
  type Attributes,
  type Context,
  type Span,
  type Tracer,
} from "@opentelemetry/api";

/**
 * Traces, as far as the code is concerned that is traced: it names its work, and hands the trace on. Without `setTracer`, which `./telemetry.ts`
 * calls where an exporter is configured, all of it is one comparison: no span, no context, no header.
 */

let tracer: Tracer | undefined;

export function setTracer(to: Tracer | undefined): void {
  tracer = to;
}

/** Whether somebody collects traces. Asked once, where a server or client is made: off, it is made without any of this. */
export function isTracing(): boolean {
  return tracer !== undefined;
}

/** W3C trace context (traceparent, tracestate), as it goes from process to process */
export type TraceHeaders = Record<string, string>;

export interface SpanOptions {
  readonly kind?: "server" | "client" | "internal";
  /** Never anything that users wrote: no command, path, environment or content */
  readonly attributes?: Attributes;
  /** Headers of the request that this is the answer to */
  readonly from?: (name: string) => string | undefined;
}

const kinds = { server: SpanKind.SERVER, client: SpanKind.CLIENT, internal: SpanKind.INTERNAL } as const;

/** A span that somebody else ends. */
export interface OpenSpan {
  readonly span: Span;
  readonly context: Context;
}

/** Begins a span; undefined when nobody collects. */
export function openSpan(name: string, { kind = "internal", attributes = {}, from }: SpanOptions = {}): OpenSpan | undefined {
  if (tracer === undefined) return undefined;
  const parent =
    from === undefined ? context.active() : propagation.extract(context.active(), from, { get: (get, key) => get(key), keys: () => [] });
  const span = tracer.startSpan(name, { kind: kinds[kind], attributes }, parent);
  return { span, context: trace.setSpan(parent, span) };
}

/** Runs work as part of a span; without one, just runs it. */
export function withinSpan<Result>(open: OpenSpan | undefined, work: () => Result): Result {
  return open === undefined ? work() : context.with(open.context, work);
}

/** Ends a span; `error`: what the work failed of. Its code is told, its message is not: it may have what users wrote. */
export function endSpan(open: OpenSpan | undefined, error?: unknown): void {
  if (open === undefined) return;
  if (error !== undefined) {
    open.span.setStatus({ code: SpanStatusCode.ERROR });
    open.span.setAttribute("error.type", typeOf(error));
  }
  open.span.end();
}

/** Runs work as a span of its own. */
export async function inSpan<Result>(name: string, options: SpanOptions, work: () => Promise<Result>): Promise<Result> {
  const open = openSpan(name, options);
  if (open === undefined) return work();
  try {
    const result = await withinSpan(open, work);
    endSpan(open);
    return result;
  } catch (error) {
    endSpan(open, error);
    throw error;
  }
}

/** What makes the receiver of a request part of the present trace; nothing outside of one. */
export function traceHeaders(open?: OpenSpan): TraceHeaders {
  const headers: TraceHeaders = {};
  if (tracer !== undefined) propagation.inject(open?.context ?? context.active(), headers);
  return headers;
}

function typeOf(error: unknown): string {
  const { code, name } = (typeof error === "object" && error !== null ? error : {}) as { readonly code?: unknown; readonly name?: unknown };
  if (typeof code === "string" || typeof code === "number") return String(code);
  return typeof name === "string" ? name : "Error";
}
