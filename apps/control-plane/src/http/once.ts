import { createHash } from "node:crypto";

import {
  idempotencyKeyHeader,
  idempotencyKeySchema,
  operationIdHeader,
  PlatformError,
  replayedHeader,
  type Build,
  type Endpoint,
  type EndpointId,
  type Snapshot,
} from "@roost/contract";
import { unreachable } from "@roost/kit";
import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";

import { ownedBy, type OwnedId } from "../db/owned-id.ts";
import type { OperationRow } from "../db/operations.ts";
import type { KeptAnswer } from "../db/schema-operations.ts";
import { KeyTaken, type OperationRequest } from "../operations/operations.ts";
import { viewGeneration } from "../sandboxes/sandbox-view.ts";
import type { Sandboxes } from "../sandboxes/sandboxes.ts";
import { parse } from "./validation.ts";

/** A request whose work is recorded as an operation. */
export interface OnceRequest {
  readonly endpointId: EndpointId;
  readonly endpoint: Endpoint;
  /** Of its answer when it succeeds */
  readonly status: number;
  readonly teamId: string;
  /** What is asked, parsed: what makes two requests the same */
  readonly asked: unknown;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** Aborts when the caller is gone */
  readonly signal: AbortSignal;
}

/** Whoever names a request will ask again: that the connection is gone ends nothing. */
const neverGone = new AbortController().signal;

declare module "fastify" {
  interface FastifyInstance {
    once: Once;
  }
}

/** What operations made that is no sandbox, as it is answered. */
export interface MadeViews {
  readonly "build.create": (owned: OwnedId) => Promise<Build>;
  readonly "snapshot.create": (owned: OwnedId) => Promise<Snapshot>;
}

/** Does what is asked once, however often it is sent, where the request names itself by an `Idempotency-Key`. */
export class Once {
  readonly #sandboxes: Sandboxes;
  readonly #views: MadeViews;

  constructor(sandboxes: Sandboxes, views: MadeViews) {
    this.#sandboxes = sandboxes;
    this.#views = views;
  }

  /** Answers what `handle` answers, or what it answered the first time. */
  async answer(once: OnceRequest, handle: (operation: OperationRequest, signal: AbortSignal) => Promise<unknown>): Promise<unknown> {
    const { operations } = this.#sandboxes;
    const { reply, status, teamId } = once;
    const key = keyOf(once);
    let operationId: string | undefined;
    const operation: OperationRequest = {
      teamId,
      endpoint: once.endpointId,
      key,
      status,
      onRecorded: (id) => {
        operationId = id;
        void reply.header(operationIdHeader, id);
      },
    };
    for (;;) {
      const earlier = await operations.earlier(operation, once.signal);
      if (earlier !== undefined) return this.#repeat(once, earlier);
      try {
        const body = await handle(operation, key === null ? once.signal : neverGone);
        if (key !== null && operationId !== undefined) await operations.keep(operationId, { status, body });
        return body;
      } catch (error) {
        if (!(error instanceof KeyTaken)) throw error;
      }
    }
  }

  async #repeat({ reply, endpointId, status }: OnceRequest, row: OperationRow): Promise<unknown> {
    void reply.header(operationIdHeader, row.id).header(replayedHeader, "true");
    const kept: KeptAnswer = row.result ?? { status, body: await this.#answerAnew(row) };
    if (kept.body === undefined)
      throw new PlatformError("internal", "the first answer was lost", { detail: `${endpointId}, operation ${row.id}` });
    void reply.code(kept.status);
    return kept.body;
  }

  /** Of an operation that succeeded, and whose answer nobody could keep: whoever was to give it is no more. */
  async #answerAnew(row: OperationRow): Promise<unknown> {
    const { records, lifecycle } = this.#sandboxes;
    const view = async (id: string) => this.#sandboxes.view(await records.get(ownedBy(row.team_id, id)));
    switch (row.kind) {
      case "sandbox.create":
      case "sandbox.pause":
      case "sandbox.resume":
      case "sandbox.rollback":
        return view(row.subject_id);
      case "sandbox.checkpoint": {
        const [newest] = await lifecycle.generations(ownedBy(row.team_id, row.subject_id));
        return newest === undefined ? undefined : { sandbox: await view(row.subject_id), generation: viewGeneration(newest) };
      }
      case "sandbox.fork":
        return { results: await Promise.all(row.made.map(async (id) => view(id).then((sandbox) => ({ sandbox }), asBody))) };
      case "build.create":
      case "snapshot.create": {
        const [id] = row.made;
        return id === undefined ? undefined : this.#views[row.kind](ownedBy(row.team_id, id));
      }
      default:
        return unreachable(row.kind);
    }
  }
}

function asBody(error: unknown) {
  if (error instanceof PlatformError) return error.toBody();
  throw error;
}

function keyOf({ endpoint, request, asked }: OnceRequest): OperationRequest["key"] {
  const header = request.headers[idempotencyKeyHeader];
  if (header === undefined) return null;
  const { [idempotencyKeyHeader]: key } = parse(keyHeaderSchema, { [idempotencyKeyHeader]: header }, "the headers");
  return {
    key,
    requestHash: createHash("sha256")
      .update(`${endpoint.path}\n${canonical(asked)}`)
      .digest(),
  };
}

const keyHeaderSchema = z.object({ [idempotencyKeyHeader]: idempotencyKeySchema });

/** Refuses the header where nothing would come of it: its sender relies on it. */
export function refuseKey(endpoint: Endpoint, request: FastifyRequest): void {
  if (request.headers[idempotencyKeyHeader] === undefined || endpoint.method !== "POST") return;
  throw new PlatformError(
    "request_invalid",
    `Idempotency-Key: ${endpoint.method} ${endpoint.path} cannot be named, so sending it twice does it twice; leave the header out`,
  );
}

/** JSON whose objects have their keys in order. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
