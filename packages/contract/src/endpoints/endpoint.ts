import type { z } from "zod";

import type { ErrorCode } from "../errors.ts";
import type { OperationKind } from "../operations.ts";
import type { Access } from "../scopes.ts";

export interface Endpoint {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** OpenAPI form: `{id}` stands for a parameter. */
  readonly path: string;
  /** Who may call it. What a scope lets one see is the own team's; the rest is not found. */
  readonly access: Access;
  readonly summary: string;
  /** What it is recorded as; such a request may name itself by an `Idempotency-Key`. */
  readonly operation?: OperationKind;
  readonly query?: z.ZodObject;
  /** A schema for JSON, `stream` for raw bytes. */
  readonly body?: z.ZodObject | "stream";
  /** Of a streamed answer; default: bytes */
  readonly streamType?: string;
  /** Status → JSON schema, `stream` for raw bytes, `empty` for none. */
  readonly answers: Readonly<Record<number, z.ZodType | "stream" | "empty">>;
  /** Beyond those that follow from `access`, and those every endpoint may give: request_invalid, internal. */
  readonly errors: readonly ErrorCode[];
  /** Messages of a WebSocket; its requests are upgrades. */
  readonly webSocket?: { readonly client?: z.ZodType; readonly server: z.ZodType };
}
