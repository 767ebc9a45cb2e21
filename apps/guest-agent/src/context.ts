import { Code, ConnectError } from "@connectrpc/connect";
import { pathLengthMax } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { GuestUser, Users } from "./users/users.ts";

/** What every part of the guest agent may use. Built once by `createGuestAgent`, passed down, never global. */
export interface GuestContext {
  readonly log: Logger;
  readonly users: Users;
  /** Token every request must carry; undefined before the first `/init` and in a sandbox without one. Signs file URLs. */
  accessToken(): string | undefined;
  /** Whether a request with this `X-Access-Token` header may pass: always, as long as there is no token. Constant time. */
  mayPass(headerToken: string | readonly string[] | undefined): boolean;
  /** Absolute form of what a caller wrote; see the function of the same name. "" is the folder that processes start in. */
  expandPath(path: string, user: GuestUser): string;
  /** Where the agent disk is mounted: `bin/` holds helper tools, `lib/` their loader and libraries. */
  readonly agentDiskFolder: string;
}

/**
 * The absolute path a caller means: `~` and relative paths are under the user's home; `.` and `..` are folded as text.
 * Throws `invalid_argument` for what can be no path.
 */
export function expandPath(path: string, user: GuestUser): string {
  if (path.includes("\0")) throw new ConnectError("a path must not hold NUL", Code.InvalidArgument);
  if (path.startsWith("~") && path !== "~" && !path.startsWith("~/")) {
    throw new ConnectError("only ~ and ~/ are expanded, not ~user", Code.InvalidArgument);
  }
  const absolute = path.startsWith("/") ? path : `${user.home}/${path.startsWith("~") ? path.slice(1) : path}`;
  const folded = foldPath(absolute);
  if (Buffer.byteLength(folded) > pathLengthMax) throw new ConnectError(`a path is at most ${pathLengthMax} bytes`, Code.InvalidArgument);
  return folded;
}

function foldPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}
