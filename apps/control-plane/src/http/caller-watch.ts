import { PlatformError } from "@roost/contract";
import { nap, second, type Logger } from "@roost/kit";

/** Time between two looks in `ms`: who may not any more is cut off within a second or so; the look itself is a remembered one */
const intervalMs = 1 * second;

/**
 * For connections that live long: asks again and again whether its caller may still have it, so that a terminal ends with the key that opened it.
 * Rejects with the reason when not; resolves when `signal` aborts.
 */
export async function watchCaller(stillMay: () => Promise<void>, log: Logger, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await nap(intervalMs, signal);
    if (signal.aborted) return;
    try {
      await stillMay();
    } catch (error) {
      if (error instanceof PlatformError && (error.status === 401 || error.status === 403)) throw error;
      log.warn({ err: error }, "could not ask whether a caller may still have its connection"); // it is not the caller's fault
    }
  }
}
