import { z } from "zod";

import { errorCodes } from "./errors.ts";
import { sandboxIdPattern } from "./ids.ts";

/**
 * Operations: pieces of work that are recorded before they are begun, so that they survive whoever does them, and can be asked after. A request
 * that names itself by an `Idempotency-Key` is done once, however often it is sent.
 */

export const operationKinds = [
  "sandbox.create",
  "sandbox.fork",
  "sandbox.pause",
  "sandbox.resume",
  "sandbox.checkpoint",
  "sandbox.rollback",
  "snapshot.create",
  "build.create",
] as const;
export type OperationKind = (typeof operationKinds)[number];

export const operationStates = ["running", "succeeded", "failed"] as const;
export type OperationState = (typeof operationStates)[number];

/** In requests: names one, so that sending it again does nothing twice */
export const idempotencyKeyHeader = "idempotency-key";
/** In answers: the operation that the request was */
export const operationIdHeader = "roost-operation-id";
/** In answers: this is the answer to an earlier request with the same key */
export const replayedHeader = "roost-replayed";

/** How long a key is remembered, in `h`, from the end of its operation */
export const idempotencyKeyHours = 24;

export const idempotencyKeySchema = z
  .string()
  .regex(/^[\x20-\x7e]{1,255}$/, "an Idempotency-Key has 1 to 255 printable ASCII characters, a UUID for example");

export const operationIdSchema = z.uuid("an operation's id is a UUID").describe("Operation id");

export const operationSchema = z
  .object({
    id: operationIdSchema,
    kind: z.enum(operationKinds),
    state: z.enum(operationStates),
    step: z.string().describe("What was last done of it"),
    subject: z.object({ kind: z.string(), id: z.string() }).describe("What it is about"),
    made: z.array(z.string()).describe("Ids of the sandboxes that it makes, or of the build or snapshot"),
    error: z
      .object({ code: z.enum(errorCodes), message: z.string() })
      .nullable()
      .describe("What it failed of; null: it has not failed"),
    created_at: z.iso.datetime(),
    ended_at: z.iso.datetime().nullable(),
  })
  .meta({ id: "Operation" });
export type Operation = z.infer<typeof operationSchema>;

/** Operations in one page of a list */
const operationPageMax = 100;

export const listOperationsQuerySchema = z.strictObject({
  subject: z
    .string()
    .regex(sandboxIdPattern, "an id is 1 to 40 lower-case letters and digits")
    .optional()
    .describe("Only those about this sandbox; default: all of the team"),
  limit: z.coerce.number().int().min(1).max(operationPageMax).default(50).describe("Entries in the answer, newest first"),
});
export type ListOperationsQuery = z.output<typeof listOperationsQuerySchema>;

export const operationListSchema = z.object({ operations: z.array(operationSchema) });
