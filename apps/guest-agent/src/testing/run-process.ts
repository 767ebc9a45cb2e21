import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import type { ProcessEvent, ProcessEvent_EndEvent, StartRequestSchema } from "@roost/contract/gen/process/process_pb.js";

import type { TestAgent } from "./test-agent.ts";

export interface Outcome {
  readonly pid: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly pty: string;
  readonly keepalives: number;
  readonly end: ProcessEvent_EndEvent;
  /** kinds of events in their order, repeats folded */
  readonly order: readonly string[];
}

/** Runs `sh -c script` to its end. */
export async function runShell(
  agent: TestAgent,
  script: string,
  request: MessageInitShape<typeof StartRequestSchema> = {},
  options: CallOptions = {},
): Promise<Outcome> {
  const process = { ...request.process, cmd: "/bin/sh", args: ["-c", script] };
  return collect(agent.processes.start({ ...request, stdin: false, process } as MessageInitShape<typeof StartRequestSchema>, options));
}

/** Reads a stream of events to its end. */
export async function collect(stream: AsyncIterable<{ readonly event?: ProcessEvent | undefined }>): Promise<Outcome> {
  const output = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[], pty: [] as Uint8Array[] };
  const order: string[] = [];
  let pid = 0;
  let keepalives = 0;
  let end: ProcessEvent_EndEvent | undefined;
  for await (const { event } of stream) {
    const got = event?.event;
    const kind = got?.case === "data" ? got.value.output.case : got?.case;
    if (kind !== undefined && order.at(-1) !== kind) order.push(kind);
    if (got?.case === "start") pid = got.value.pid;
    else if (got?.case === "keepalive") keepalives += 1;
    else if (got?.case === "end") end = got.value;
    else if (got?.case === "data" && got.value.output.case !== undefined) output[got.value.output.case].push(got.value.output.value);
  }
  if (end === undefined) throw new Error(`the stream ended without an end event, after ${order.join(", ")}`);
  const text = (chunks: readonly Uint8Array[]) => Buffer.concat(chunks).toString("utf8");
  return { pid, stdout: text(output.stdout), stderr: text(output.stderr), pty: text(output.pty), keepalives, end, order };
}

export type EventStream = AsyncIterator<{ readonly event?: ProcessEvent | undefined }>;

/** The events of a stream, one by one. */
export function events(stream: AsyncIterable<{ readonly event?: ProcessEvent | undefined }>): EventStream {
  return stream[Symbol.asyncIterator]();
}

/** Reads events until one is of the kind; answers it. */
export async function until(stream: EventStream, kind: "start" | "data" | "end" | "keepalive"): Promise<ProcessEvent["event"]> {
  for (;;) {
    const { value, done } = await stream.next();
    if (done === true) throw new Error(`the stream ended before ${kind}`);
    if (value.event?.event.case === kind) return value.event.event;
  }
}

/** Reads output until it holds `text`; answers all of it. */
export async function untilOutput(stream: EventStream, text: string): Promise<string> {
  let seen = "";
  while (!seen.includes(text)) {
    const event = await until(stream, "data");
    if (event.case === "data" && event.value.output.case !== undefined) seen += Buffer.from(event.value.output.value).toString("utf8");
  }
  return seen;
}

export function pidOf(event: ProcessEvent["event"]): number {
  if (event.case !== "start") throw new Error(`expected start, got ${event.case}`);
  return event.value.pid;
}
