import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";

import type { EndpointId } from "@roost/contract";
import type { z } from "zod";

import { addressOf, type Connection, type RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { readJson, send } from "./http.ts";
import { MessageSocket } from "./message-socket.ts";
import { Tunnel } from "./tunnel.ts";
import { endpointOf, pathOf, type AnswerOf, type BodyOf } from "./endpoint-types.ts";

export interface CallInput<Id extends EndpointId> {
  /** Values of the path's parameters. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly body?: BodyOf<Id>;
}

export interface RawInput {
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly body?: Readable;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Calls endpoints of the contract's table: paths, answers and messages are checked against it. */
export class Api {
  readonly connection: Connection;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  /** JSON in, JSON out. */
  async call<Id extends EndpointId>(id: Id, input: CallInput<Id>, options: RequestOptions = {}): Promise<AnswerOf<Id>> {
    const endpoint = endpointOf(id);
    const url = addressOf(this.connection, pathOf(id, input.path ?? {}), input.query ?? {});
    const body = input.body === undefined ? undefined : JSON.stringify(input.body);
    const answer = await send(this.connection, { method: endpoint.method, url, body }, options);
    return (await checkAnswer(id, answer)) as AnswerOf<Id>;
  }

  /** Bytes in or out: the caller reads the answer's body. */
  async raw(id: EndpointId, input: RawInput, options: RequestOptions = {}): Promise<IncomingMessage> {
    const url = addressOf(this.connection, pathOf(id, input.path ?? {}), input.query ?? {});
    const { headers, body } = input;
    return send(this.connection, { method: endpointOf(id).method, url, body, ...(headers === undefined ? {} : { headers }) }, options);
  }

  async socket<Message>(
    id: EndpointId,
    schema: z.ZodType<Message>,
    input: RawInput,
    options: RequestOptions,
  ): Promise<MessageSocket<Message>> {
    const url = addressOf(this.connection, pathOf(id, input.path ?? {}), input.query ?? {});
    return MessageSocket.open(this.connection, url, schema, options);
  }

  /** Bytes both ways. */
  async tunnel(id: EndpointId, input: RawInput, options: RequestOptions): Promise<Tunnel> {
    return Tunnel.open(this.connection, addressOf(this.connection, pathOf(id, input.path ?? {}), input.query ?? {}), options);
  }
}

/** The answer's JSON if it is what the table promises for its status; undefined for an empty one. */
export async function checkAnswer(id: EndpointId, answer: IncomingMessage): Promise<unknown> {
  const status = answer.statusCode ?? 0;
  const expected = endpointOf(id).answers[status];
  if (expected === undefined) {
    answer.resume();
    throw new RoostError("answer_invalid", `the server answered ${id} with the unexpected status ${status}`, { status });
  }
  if (expected === "empty" || expected === "stream") {
    answer.resume();
    return undefined;
  }
  const parsed = expected.safeParse(await readJson(answer));
  if (parsed.success) return parsed.data;
  const where = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ");
  throw new RoostError("answer_invalid", `the server's answer to ${id} is not what this client understands (${where})`, { status });
}
