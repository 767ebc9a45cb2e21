import { EventType } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { PlatformError, type WatchServerMessage } from "@roost/contract";
import { second } from "@roost/kit";

import { fileErrors, fromGuestError } from "../../guest/guest-errors.ts";
import type { JsonSocket } from "./json-socket.ts";
import type { SessionContext } from "./session.ts";

/** A watch silent for this long in `ms` is dead; the guest sends a sign of life every 30 s */
const silenceMs = 100 * second;
/** Longest name of a changed file that is passed on, in characters: PATH_MAX */
const nameLengthMax = 4096;

const eventNames: Readonly<Record<number, Extract<WatchServerMessage, { type: "event" }>["event"]>> = {
  [EventType.CREATE]: "create",
  [EventType.WRITE]: "write",
  [EventType.REMOVE]: "remove",
  [EventType.RENAME]: "rename",
  [EventType.CHMOD]: "chmod",
};

/** `files/watch`: changes in a folder until the client goes away. */
export async function serveWatch(socket: JsonSocket<never, WatchServerMessage>, context: SessionContext): Promise<void> {
  const abort = new AbortController();
  try {
    await Promise.race([forward(socket, context, abort), socket.gone()]);
  } finally {
    abort.abort();
  }
}

async function forward(socket: JsonSocket<never, WatchServerMessage>, context: SessionContext, abort: AbortController): Promise<void> {
  const { guest, query } = context;
  const watch = { path: query["path"] ?? "", recursive: query["recursive"] === "true" };
  let timer: NodeJS.Timeout | undefined;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(new PlatformError("guest_unreachable", "the sandbox's guest agent fell silent")), silenceMs);
  };
  heard();
  try {
    const headers = { ...guest.headers(query["user"]), "keepalive-ping-interval": "30" };
    for await (const { event } of guest.filesystem.watchDir(watch, { signal: abort.signal, headers })) {
      heard();
      if (event.case === "start") await socket.send({ type: "start" });
      else if (event.case === "filesystem") {
        const name = eventNames[event.value.type];
        if (name !== undefined) await socket.send({ type: "event", event: name, name: event.value.name.slice(0, nameLengthMax) });
      }
      clearTimeout(timer); // a client that does not read is not the guest's silence
      heard();
    }
    throw new PlatformError("guest_error", "the guest agent ended the watch");
  } catch (error) {
    const { reason } = abort.signal as { readonly reason: unknown };
    const failure = fromGuestError(reason instanceof PlatformError ? reason : error, { ...fileErrors, 8: "guest_error" });
    const isBroken = failure.code === "guest_unreachable" && !abort.signal.aborted;
    if (guest.ended.aborted || (isBroken && (await guest.hasEnded())))
      throw new PlatformError("guest_unreachable", "the sandbox was paused or ended", { cause: error });
    throw failure;
  } finally {
    clearTimeout(timer);
  }
}
