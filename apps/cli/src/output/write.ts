import type { Writable } from "node:stream";

import { BrokenPipeError } from "../failure.ts";

/** Writes with back-pressure: resolves when the stream wants more. Fails with `BrokenPipeError` when nobody reads. */
export async function write(stream: Writable, data: string | Uint8Array): Promise<void> {
  if (stream.destroyed || stream.errored !== null) throw brokenOr(stream.errored);
  const isAccepted = stream.write(data);
  if (isAccepted) return;
  await new Promise<void>((resolve, reject) => {
    const forget = () => {
      stream.off("drain", onDrain);
      stream.off("error", onError);
      stream.off("close", onClose);
    };
    const onDrain = () => {
      forget();
      resolve();
    };
    const onError = (error: Error) => {
      forget();
      reject(brokenOr(error));
    };
    const onClose = () => onError(new BrokenPipeError());
    stream.once("drain", onDrain);
    stream.once("error", onError);
    stream.once("close", onClose);
  });
}

/** Waits until everything written has left the process. */
export async function flush(stream: Writable): Promise<void> {
  if (stream.destroyed || stream.errored !== null) return;
  await new Promise<void>((resolve) => {
    stream.write("", () => resolve()); // an error here means nobody reads, which the exit code already tells
  });
}

function brokenOr(error: Error | null): Error {
  if (error === null || (error as NodeJS.ErrnoException).code === "EPIPE") return new BrokenPipeError();
  return error;
}
