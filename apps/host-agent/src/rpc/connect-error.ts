import { Code, ConnectError } from "@connectrpc/connect";
import { errorCodeHeader, PlatformError, type ErrorCode } from "@roost/contract";
import type { Logger } from "@roost/kit";

/** Connect metadata beside the catalogue code: seconds after which trying again makes sense. */
export const retryAfterHeader = "retry-after";

/** For clients that only know Connect's codes; ours travels in the metadata. */
const codeOfStatus: Readonly<Record<number, Code>> = {
  400: Code.InvalidArgument,
  404: Code.NotFound,
  409: Code.FailedPrecondition,
  429: Code.ResourceExhausted,
  502: Code.Unavailable,
  503: Code.Unavailable,
  504: Code.DeadlineExceeded,
  507: Code.ResourceExhausted,
};

/**
 * What a failed call answers. A `PlatformError` keeps its code and its message for users; anything else is a bug of ours,
 * logged here with its cause and shown only as `internal`.
 */
export function toConnectError(error: unknown, log: Logger): ConnectError {
  if (error instanceof ConnectError) return error;
  const known =
    error instanceof PlatformError ? error : new PlatformError("internal", "the host agent failed; its log says why", { cause: error });
  if (known.code === "internal") log.error({ err: error }, "a call failed with an error that nobody expected");
  else log.debug({ err: error, code: known.code, detail: known.detail }, "a call was refused");
  const metadata: Record<string, string> = { [errorCodeHeader]: known.code satisfies ErrorCode };
  if (known.retryAfterSec !== undefined) metadata[retryAfterHeader] = String(known.retryAfterSec);
  return new ConnectError(known.message, codeOfStatus[known.status] ?? Code.Internal, metadata, undefined, known);
}
