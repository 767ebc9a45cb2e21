import { constants } from "node:os";

import { Code, ConnectError } from "@connectrpc/connect";

/** What a failed system call means to the caller of an RPC. Everything not listed is `internal`. */
const codes: Readonly<Record<string, Code>> = {
  ENOENT: Code.NotFound,
  EEXIST: Code.AlreadyExists,
  ENOTDIR: Code.InvalidArgument,
  EISDIR: Code.InvalidArgument,
  EINVAL: Code.InvalidArgument,
  ENAMETOOLONG: Code.InvalidArgument,
  EILSEQ: Code.InvalidArgument,
  ELOOP: Code.FailedPrecondition,
  ENOTEMPTY: Code.FailedPrecondition,
  EBUSY: Code.FailedPrecondition,
  EXDEV: Code.FailedPrecondition,
  ETXTBSY: Code.FailedPrecondition,
  ENOTSUP: Code.FailedPrecondition,
  EOPNOTSUPP: Code.FailedPrecondition,
  EACCES: Code.PermissionDenied,
  EPERM: Code.PermissionDenied,
  EROFS: Code.PermissionDenied,
  ENOSPC: Code.ResourceExhausted,
  EDQUOT: Code.ResourceExhausted,
  EMFILE: Code.ResourceExhausted,
  ENFILE: Code.ResourceExhausted,
  ENOMEM: Code.ResourceExhausted,
};

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "does not exist",
  EEXIST: "exists already",
  ENOTDIR: "a part of the path is not a directory",
  EISDIR: "is a directory",
  ENAMETOOLONG: "the name is too long",
  ELOOP: "too many symbolic links",
  ENOTEMPTY: "the directory is not empty",
  ENOSPC: "not enough disk space available",
  EDQUOT: "not enough disk space available",
  EXDEV: "source and destination are on different file systems",
};

/** Name of the error of a failed system call (`ENOENT`), or undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return undefined;
  return error.code.startsWith("E") && "errno" in error ? error.code : undefined;
}

/** `ENOENT` of 2. */
export function errnoName(errno: number): string {
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
}

/** An error as Node's own of a failed call, for the negative results of `libc()`. */
export function systemError(call: string, result: number, path: string): NodeJS.ErrnoException {
  const code = errnoName(-result);
  return Object.assign(new Error(`${code}: ${call} '${path}'`), { code, errno: result, syscall: call, path });
}

/** What to answer for an error that met work on `path`; errors that are an answer already pass. */
export function toConnectError(error: unknown, path: string): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof Error && error.name === "AbortError")
    return new ConnectError("canceled", Code.Canceled, undefined, undefined, error);
  const errno = errnoOf(error);
  const code = (errno === undefined ? undefined : codes[errno]) ?? Code.Internal;
  const reason = errno === undefined ? "failed" : (reasons[errno] ?? errno);
  return new ConnectError(`${path}: ${reason}`, code, undefined, undefined, error);
}

/** Whether an error says that a path leads nowhere: a missing part, or a file where a folder would have to be. */
export function isMissing(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === "ENOENT" || errno === "ENOTDIR";
}
