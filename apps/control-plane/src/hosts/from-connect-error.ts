import { Code, ConnectError } from "@connectrpc/connect";
import { errorCodeHeader, isErrorCode, PlatformError } from "@roost/contract";
import { NotConnectedError, WrongHostError } from "./host-peer.ts";
import type { Failure } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

const didNotGetThrough: ReadonlySet<Code> = new Set([Code.Unavailable, Code.DeadlineExceeded, Code.Canceled, Code.Aborted]);

/**
 * What a failed `hostagent.v1` call means. A host agent sends a catalogue code with every failure of its own; without
 * one the call did not get through, or the host agent has a bug.
 */
export function fromConnectError(error: unknown, hostId: string): PlatformError {
  if (error instanceof PlatformError) return error;
  const failure = ConnectError.from(error);
  const code = failure.metadata.get(errorCodeHeader);
  if (code !== null && isErrorCode(code)) {
    const retryAfterSec = /^\d{1,5}$/.exec(failure.metadata.get("retry-after") ?? "")?.[0];
    return new PlatformError(code, failure.rawMessage, {
      cause: failure,
      ...(retryAfterSec === undefined ? {} : { retryAfterSec: Number(retryAfterSec) }),
    });
  }
  const detail = `host ${hostId} answered ${Code[failure.code] ?? failure.code}: ${failure.rawMessage}`;
  if (didNotGetThrough.has(failure.code) || isOfConnection(failure.cause)) {
    return new PlatformError("host_unreachable", "the sandbox's host cannot be reached right now", {
      detail,
      cause: failure,
      retryAfterSec: 5,
    });
  }
  return new PlatformError("internal", "the sandbox's host failed; its log says why", { detail, cause: failure });
}

/** Whether something of Node's connections is what failed (they have codes, `ECONNRESET`, `CERT_HAS_EXPIRED`), on this side. */
function isOfConnection(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && typeof cause.code === "string";
}

/** Links of a chain of causes that are looked at */
const causesMax = 8;

/**
 * Whether a call failed before the host had any of it: there was no connection yet, and none came to be. Of all other failures to reach a host nobody knows what it made of the call.
 */
export function wasNeverSent(error: unknown): boolean {
  let cause = error;
  for (let depth = 0; depth < causesMax && cause instanceof Error; depth += 1, cause = cause.cause) {
    if (cause instanceof NotConnectedError || cause instanceof WrongHostError) return true;
    // Node names the system call that failed
    if ("syscall" in cause && (cause.syscall === "connect" || cause.syscall === "getaddrinfo")) return true;
  }
  return false;
}

/** Why one of several failed, as a host says it. */
export function failureFrom({ code, message }: Failure): PlatformError {
  if (isErrorCode(code)) return new PlatformError(code, message);
  return new PlatformError("internal", "the sandbox's host failed; its log says why", { detail: `${code}: ${message}` });
}
