import type { PlatformError } from "@roost/contract";
import type { FastifyReply } from "fastify";

/**
 * Status of an error where E2B's differs. Its API gives neither 502, which its SDK takes for "the sandbox is gone", nor 507, which it
 * takes for the sandbox's own disk.
 */
const statuses: Readonly<Record<number, number>> = { 502: 500, 507: 503 };

/** E2B's form of an error: the SDK decides by `code`, which is the HTTP status again. */
export interface E2bErrorBody {
  readonly code: number;
  readonly message: string;
  /** From the platform's error catalogue */
  readonly error_code: string;
}

export function e2bErrorBody(error: PlatformError): E2bErrorBody {
  return { code: statuses[error.status] ?? error.status, message: error.message, error_code: error.code };
}

export function sendE2bError(reply: FastifyReply, error: PlatformError): FastifyReply {
  if (error.retryAfterSec !== undefined) void reply.header("retry-after", String(error.retryAfterSec));
  const body = e2bErrorBody(error);
  return reply.code(body.code).type("application/json; charset=utf-8").send(body);
}
