import { create, toBinary, toJsonString, type MessageInitShape } from "@bufbuild/protobuf";
import { StartResponseSchema, type ProcessEventSchema } from "@roost/contract/gen/process/process_pb.js";

import type { StreamItem } from "./process-streams.ts";

type Event = MessageInitShape<typeof ProcessEventSchema>;

/** An item of a stream as the wire's message. */
export function toEvent(item: StreamItem): Event {
  switch (item.kind) {
    case "start":
      return { event: { case: "start", value: { pid: item.pid } } };
    case "stdout":
    case "stderr":
    case "pty":
      return { event: { case: "data", value: { output: { case: item.kind, value: item.bytes } } } };
    case "end": {
      const { exitCode, exited, status, error } = item.exit;
      return { event: { case: "end", value: { exitCode, exited, status, ...(error === undefined ? {} : { error }) } } };
    }
    case "idle":
      return { event: { case: "keepalive", value: {} } };
  }
}

export type Codec = "json" | "proto";

/**
 * An item as an encoded StartResponse or ConnectResponse, which are alike. Data, which is nearly everything, is encoded
 * here by hand: the library looks at every field through reflection and copies the bytes several times.
 */
export function encodeItem(item: StreamItem, codec: Codec): Uint8Array {
  if ("bytes" in item) return codec === "json" ? jsonData(item.kind, item.bytes) : protoData(item.kind, item.bytes);
  const message = create(StartResponseSchema, { event: toEvent(item) });
  return codec === "json" ? Buffer.from(toJsonString(StartResponseSchema, message)) : toBinary(StartResponseSchema, message);
}

type OutputKind = "stdout" | "stderr" | "pty";

function jsonData(kind: OutputKind, bytes: Uint8Array): Uint8Array {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
  return Buffer.from(`{"event":{"data":{"${kind}":"${text}"}}}`, "latin1");
}

/** Field numbers of DataEvent. */
const outputField = { stdout: 1, stderr: 2, pty: 3 } as const;
const lengthDelimited = 2;

/** StartResponse.event 1 { ProcessEvent.data 2 { DataEvent.stdout 1 | stderr 2 | pty 3: bytes } } */
function protoData(kind: OutputKind, bytes: Uint8Array): Uint8Array {
  const output = fieldHead(outputField[kind], bytes.length);
  const data = fieldHead(2, output.length + bytes.length);
  const event = fieldHead(1, data.length + output.length + bytes.length);
  return Buffer.concat([Uint8Array.from([...event, ...data, ...output]), bytes]);
}

function fieldHead(field: number, length: number): number[] {
  const head = [(field << 3) | lengthDelimited];
  for (; length > 0x7f; length >>>= 7) head.push((length & 0x7f) | 0x80);
  head.push(length);
  return head;
}
