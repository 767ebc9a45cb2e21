import { Code, ConnectError } from "@connectrpc/connect";
import { PlatformError, type ErrorCode } from "@roost/contract";

/** Characters of a guest's own words that are passed on; a guest is free to send megabytes */
const guestMessageLengthMax = 500;

/** Which catalogue code a Connect code of the guest agent means for one kind of call. */
export type GuestErrorCodes = Partial<Record<Code, ErrorCode>>;

export const processErrors: GuestErrorCodes = {
  [Code.NotFound]: "process_not_found",
  [Code.InvalidArgument]: "request_invalid",
  [Code.FailedPrecondition]: "request_invalid",
  [Code.AlreadyExists]: "tag_taken",
};

/** Of starting a process: there "not found" is the program, and an argument that does not fit is most often `cwd`. */
export const startErrors: GuestErrorCodes = {
  [Code.NotFound]: "request_invalid",
  [Code.InvalidArgument]: "request_invalid",
  [Code.PermissionDenied]: "request_invalid",
  [Code.FailedPrecondition]: "request_invalid",
  [Code.AlreadyExists]: "tag_taken",
};

export const fileErrors: GuestErrorCodes = {
  [Code.NotFound]: "file_not_found",
  [Code.InvalidArgument]: "path_invalid",
  [Code.FailedPrecondition]: "path_invalid",
  [Code.PermissionDenied]: "path_invalid",
  [Code.AlreadyExists]: "file_exists",
  [Code.ResourceExhausted]: "guest_disk_full",
};

/** Guest words for a message: bounded, one line, nothing a terminal would obey. */
export function quoteGuest(text: string): string {
  const line = text.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}]+/gu, " ").trim();
  return line.length > guestMessageLengthMax ? `${line.slice(0, guestMessageLengthMax)}…` : line;
}

/** The `PlatformError` somewhere in what went wrong: a tunnel that could not be opened says why. */
export function findPlatformError(error: unknown): PlatformError | undefined {
  let current = error;
  for (let depth = 0; depth < 8 && current instanceof Error; depth += 1) {
    if (current instanceof PlatformError) return current;
    current = current.cause;
  }
  return undefined;
}

const didNotAnswer: ReadonlySet<Code> = new Set([Code.Unavailable, Code.Aborted, Code.DeadlineExceeded, Code.Canceled]);

/** What a failed guest call means to the user. Whatever the guest says, it is said to be the guest's words. */
export function fromGuestError(error: unknown, codes: GuestErrorCodes): PlatformError {
  const known = findPlatformError(error);
  if (known !== undefined) return known;
  const failure = ConnectError.from(error);
  const said = quoteGuest(failure.rawMessage);
  if (failure.code === Code.Unauthenticated && said.includes("username"))
    return new PlatformError("user_unknown", said, { cause: failure });
  const code = codes[failure.code];
  if (code !== undefined) return new PlatformError(code, said === "" ? "the guest refused this" : said, { cause: failure });
  if (didNotAnswer.has(failure.code)) return guestUnreachable(failure);
  return new PlatformError("guest_error", said === "" ? "the guest agent failed" : `the guest agent failed: ${said}`, { cause: failure });
}

export function guestUnreachable(cause: unknown): PlatformError {
  return new PlatformError("guest_unreachable", "the sandbox's guest agent does not answer", { cause, retryAfterSec: 1 });
}
