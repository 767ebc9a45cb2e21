import { errorCatalogue, isErrorCode, type ErrorCode } from "@roost/contract";

/** What can go wrong on this side of the connection, beside the server's own catalogue. */
export const clientErrorCodes = {
  /** no connection to the server: refused, unknown host, TLS */
  connection_failed: { retryable: true },
  /** the connection ended in the middle of an answer or a stream */
  connection_lost: { retryable: true },
  /** the server did not answer within the request's deadline */
  client_timeout: { retryable: true },
  /** the server answered something this client does not understand */
  answer_invalid: { retryable: false },
  /** a setting of the client itself, such as its URL, is wrong */
  client_misconfigured: { retryable: false },
  /** a Dockerfile, or a recipe in a file, that no template can be built from */
  dockerfile_invalid: { retryable: false },
  /** what a COPY names is not there, not allowed, or changes while it is read */
  context_invalid: { retryable: false },
} as const;
export type ClientErrorCode = keyof typeof clientErrorCodes;
export type RoostErrorCode = ErrorCode | ClientErrorCode;

export interface RoostErrorOptions {
  /** HTTP status; 0 when there was no answer. */
  readonly status?: number;
  readonly requestId?: string | undefined;
  readonly retryAfterSec?: number | undefined;
  readonly cause?: unknown;
}

/**
 * Every failure of the SDK. `code` is from the error catalogue (or `clientErrorCodes`), `retryable` says whether the same
 * request may succeed later, `message` is for people.
 */
export class RoostError extends Error {
  override readonly name = "RoostError";
  /** One of `RoostErrorCode`; a newer server may send others. */
  readonly code: string;
  readonly status: number;
  readonly retryable: boolean;
  readonly requestId: string | undefined;
  readonly retryAfterSec: number | undefined;

  constructor(code: string, message: string, options: RoostErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.status = options.status ?? (isErrorCode(code) ? errorCatalogue[code].status : 0);
    this.retryable = isRetryable(code, this.status);
    this.requestId = options.requestId;
    this.retryAfterSec = options.retryAfterSec;
  }

  is(code: RoostErrorCode): boolean {
    return this.code === code;
  }
}

function isRetryable(code: string, status: number): boolean {
  if (isErrorCode(code)) return errorCatalogue[code].retryable;
  if (Object.hasOwn(clientErrorCodes, code)) return clientErrorCodes[code as ClientErrorCode].retryable;
  return status === 429 || status === 503;
}
