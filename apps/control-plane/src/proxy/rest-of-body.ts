import type { IncomingMessage } from "node:http";

import { MiB, second } from "@roost/kit";

import { expectsContinue } from "./request-body.ts";

/** What is still read of a request that has its answer, in `ms` and `bytes`: a client that is cut while it sends may never see the answer */
const discardMs = 2 * second;
const discardBytesMax = 64 * MiB;

/** Calls back once a request has been read to its end, or enough of it that nobody needs. Nobody else may be reading it. */
export function discardRest(request: IncomingMessage, done: () => void): void {
  // One who waits to be told to send its body does not send it now.
  const isHeldBack = expectsContinue(request) && !request.readableDidRead;
  if (request.complete || request.destroyed || isHeldBack) {
    if (!isHeldBack) request.resume(); // what is here already: the connection's next request comes after it
    return done();
  }
  let bytes = 0;
  let isDone = false;
  const finish = () => {
    if (isDone) return;
    isDone = true;
    clearTimeout(timer);
    done();
  };
  const timer = setTimeout(finish, discardMs);
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > discardBytesMax) finish();
  });
  for (const event of ["end", "close"]) request.once(event, finish);
  request.resume();
}
