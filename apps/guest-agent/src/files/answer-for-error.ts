import { Code, ConnectError } from "@connectrpc/connect";

import { errnoOf } from "../filesystem/file-errors.ts";
import { HttpError } from "../http/http-error.ts";

const statusOfErrno: Readonly<Record<string, readonly [status: number, message: string]>> = {
  ENOENT: [404, "does not exist"],
  ENOTDIR: [404, "does not exist"],
  EISDIR: [400, "is a directory"],
  ENAMETOOLONG: [400, "the name is too long"],
  ELOOP: [400, "too many symbolic links"],
  EINVAL: [400, "is no valid path"],
  ENXIO: [400, "is not a regular file"],
  ENOTSUP: [400, "the file system does not support this"],
  EOPNOTSUPP: [400, "the file system does not support this"],
  EFBIG: [413, "the file is too large for the file system"],
  EACCES: [403, "permission denied"],
  EPERM: [403, "operation not permitted"],
  EROFS: [403, "the file system is read-only"],
  ENOSPC: [507, "not enough disk space available"],
  EDQUOT: [507, "not enough disk space available"],
};

const statusOfCode: Partial<Record<Code, number>> = {
  [Code.InvalidArgument]: 400,
  [Code.Unauthenticated]: 401,
  [Code.PermissionDenied]: 403,
  [Code.NotFound]: 404,
};

/** What to answer for an error that met work on `path`. Messages of unexpected errors stay in the log. */
export function answerForError(error: unknown, path: string): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof ConnectError) return new HttpError(statusOfCode[error.code] ?? 500, error.rawMessage, error);
  const known = statusOfErrno[errnoOf(error) ?? ""];
  if (known === undefined) return new HttpError(500, `${path}: failed`, error);
  return new HttpError(known[0], `${path}: ${known[1]}`, error);
}
