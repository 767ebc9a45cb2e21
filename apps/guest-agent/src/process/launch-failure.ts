import { Code, ConnectError } from "@connectrpc/connect";

import type { LaunchError } from "../launcher/launch-error.ts";

/** What a caller is told when a process could not be started. */
export function launchFailure(
  error: LaunchError,
  start: { readonly config: { readonly cmd: string }; readonly cwd: string },
): ConnectError {
  if (error.stage === "cwd") {
    const why =
      error.code === "ENOENT" ? "does not exist" : error.code === "ENOTDIR" ? "is not a folder" : `cannot be entered (${error.code})`;
    return new ConnectError(`cwd '${start.cwd}' ${why}`, Code.InvalidArgument, undefined, undefined, error);
  }
  const { code, message } = error.stage === "exec" ? execFailure(error.code, start.config.cmd) : setupFailure(error.code);
  return new ConnectError(message, code, undefined, undefined, error);
}

function execFailure(errno: string, cmd: string): { readonly code: Code; readonly message: string } {
  switch (errno) {
    case "ENOENT":
    case "ENOTDIR":
      return { code: Code.NotFound, message: `command not found: '${cmd}'` };
    case "EACCES":
    case "EPERM":
      return { code: Code.PermissionDenied, message: `permission denied to execute '${cmd}'` };
    case "E2BIG":
      return { code: Code.InvalidArgument, message: "arguments and environment are too long together" };
    case "ENOMEM":
    case "EAGAIN":
      return { code: Code.ResourceExhausted, message: `no room to execute '${cmd}' (${errno})` };
    default:
      return { code: Code.InvalidArgument, message: `cannot execute '${cmd}' (${errno})` };
  }
}

function setupFailure(errno: string): { readonly code: Code; readonly message: string } {
  const exhausted = ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC"].includes(errno);
  return { code: exhausted ? Code.ResourceExhausted : Code.Internal, message: `cannot make a process ready (${errno})` };
}
