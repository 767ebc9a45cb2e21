import { stat } from "node:fs/promises";

import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { Filesystem, WatchDirRequest, CreateWatcherRequest } from "@roost/contract/gen/filesystem/filesystem_pb.js";

import type { GuestContext } from "../context.ts";
import type { GuestUser } from "../users/users.ts";
import { OwnerNames, readEntry, type Entry } from "./entry.ts";
import type { WatchEvent } from "./event-queue.ts";
import { isMissing, toConnectError } from "./file-errors.ts";
import { keepaliveMsOf } from "./keepalive.ts";
import { listFolder } from "./list-folder.ts";
import { makeFolders } from "./make-folder.ts";
import { movePath } from "./move-path.ts";
import { removeTree } from "./remove-tree.ts";
import { Watchers, type WatchRequest } from "./watchers.ts";

/**
 * `filesystem.Filesystem`: what the ecosystem's SDKs call for everything but the bytes of files.
 *
 * The agent acts as root and gives what it makes to the acting user, as the wire's other servers do. The acting user
 * decides where `~` is and who owns new things, not what may be reached: a sandbox has one tenant, whose `user` may
 * become root anyway. A user the guest does not know is an error, never root.
 */
export function createFilesystemService(
  context: GuestContext,
  watchers: Watchers = new Watchers(context.log),
): ServiceImpl<typeof Filesystem> {
  return {
    async stat(request, call) {
      const { path } = resolve(request.path, call);
      return answering(path, async () => ({
        entry: await readEntry(path, new OwnerNames(context.users)).catch(notFoundIfMissing(path)),
      }));
    },

    async listDir(request, call) {
      const { path } = resolve(request.path, call);
      return answering(path, async () => {
        if (!(await stat(path).catch(notFoundIfMissing(path))).isDirectory())
          throw new ConnectError(`path is not a directory: ${path}`, Code.InvalidArgument);
        return { entries: await listFolder(path, request.depth, new OwnerNames(context.users), call.signal) };
      });
    },

    async makeDir(request, call) {
      const { path, user } = resolve(mustHave(request.path, "path"), call);
      return answering(path, async () => {
        const existing = await stat(path).catch(undefinedIfAbsent); // makeFolders tells what is wrong with the folders above
        if (existing?.isDirectory() === true) throw new ConnectError(`directory already exists: ${path}`, Code.AlreadyExists);
        if (existing !== undefined) throw new ConnectError(`path already exists but it is not a directory: ${path}`, Code.InvalidArgument);
        await makeFolders(path, user);
        return { entry: await readEntry(path, new OwnerNames(context.users)) };
      });
    },

    async move(request, call) {
      const { path: source, user } = resolve(mustHave(request.source, "source"), call);
      const destination = context.expandPath(mustHave(request.destination, "destination"), user);
      refuseRoot(source);
      return answering(source, async () => {
        await movePath(source, destination, user, call.signal);
        return { entry: await readEntry(destination, new OwnerNames(context.users)) };
      });
    },

    async remove(request, call) {
      const { path } = resolve(mustHave(request.path, "path"), call);
      refuseRoot(path);
      return answering(path, async () => {
        await removeTree(path, call.signal);
        return {};
      });
    },

    async *watchDir(request, call) {
      using stream = await watchers.openStream(watchRequestOf(request, call), call.signal);
      // A generator whose reader vanished may stay suspended for ever, so its end must not be what frees the watch.
      call.signal.addEventListener("abort", () => stream[Symbol.dispose](), { once: true });
      const keepaliveMs = keepaliveMsOf(call.requestHeader);
      yield { event: { case: "start", value: {} } };
      for (;;) {
        const next = await stream.watch.events.next(keepaliveMs, call.signal);
        if (next === "end") return;
        if (next === "idle") yield { event: { case: "keepalive", value: {} } };
        else yield { event: { case: "filesystem", value: await describe(next, request.includeEntry, new OwnerNames(context.users)) } };
      }
    },

    async createWatcher(request, call) {
      return { watcherId: await watchers.create(watchRequestOf(request, call), request.includeEntry, call.signal) };
    },

    async getWatcherEvents(request) {
      const { events, includeEntry } = watchers.drain(request.watcherId);
      const owners = new OwnerNames(context.users);
      const described = [];
      for (const event of events) described.push(await describe(event, includeEntry, owners));
      return { events: described };
    },

    removeWatcher(request) {
      watchers.remove(request.watcherId);
      return {};
    },
  };

  /** No path at all is the folder that processes start in, except where that would make or remove something. */
  function resolve(path: string, call: HandlerContext): { path: string; user: GuestUser } {
    const user = context.users.userOf(call.requestHeader);
    return { path: context.expandPath(path, user), user };
  }

  function watchRequestOf(request: WatchDirRequest | CreateWatcherRequest, call: HandlerContext): WatchRequest {
    const { path } = resolve(request.path, call);
    return { path, recursive: request.recursive, allowNetworkMounts: request.allowNetworkMounts };
  }
}

/** An event for the wire. Its entry, when asked for, is the state at delivery; none when nothing is there any more. */
async function describe(event: WatchEvent, includeEntry: boolean, owners: OwnerNames) {
  const entry: Entry | undefined = includeEntry ? await readEntry(event.path, owners).catch(() => undefined) : undefined;
  return { name: event.name, type: event.type, ...(entry === undefined ? {} : { entry }) };
}

async function answering<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toConnectError(error, path);
  }
}

function mustHave(path: string, field: string): string {
  if (path === "") throw new ConnectError(`${field} must not be empty`, Code.InvalidArgument);
  return path;
}

function refuseRoot(path: string): void {
  if (path === "/") throw new ConnectError("the root folder cannot be moved or removed", Code.InvalidArgument);
}

/** A path through a file (`/etc/passwd/x`) names nothing, as one through a missing folder does. */
function notFoundIfMissing(path: string): (error: unknown) => never {
  return (error) => {
    throw isMissing(error) ? new ConnectError(`${path} not found`, Code.NotFound, undefined, undefined, error) : error;
  };
}

function undefinedIfAbsent(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}
