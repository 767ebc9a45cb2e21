import { PlatformError } from "@roost/contract";
import { must, nap, second, type Logger } from "@roost/kit";
import type { FastifyRequest } from "fastify";

import type { Caller } from "../accounts/caller.ts";
import { authorize } from "./authorization.ts";
import type { Services } from "./services.ts";

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

/** A request that goes on for as long as its caller likes. */
export interface LongRequest {
  readonly request: FastifyRequest;
  readonly caller: Caller;
}

/** Asks whether the caller may still have what it asked for: rejects when not, also when it acts for another team by now. */
function stillMayOf({ authentication }: Pick<Services, "authentication">, { request, caller }: LongRequest) {
  const access = must(request.routeOptions.config.access, "every route says who may call it");
  return async () => {
    const now = await authentication.identify(request.raw, request.id);
    if (access !== "open") authorize(now, access);
    if (now.teamId !== caller.teamId) throw new PlatformError("api_key_invalid", "this request was of another team");
  };
}

/** Does work under a signal that also aborts when the caller may not have it any more; rejects with why, then. */
export async function whileCallerMay<Result>(
  services: Pick<Services, "authentication" | "log">,
  long: LongRequest,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const lost = new AbortController();
  const over = new AbortController();
  watchCaller(stillMayOf(services, long), services.log, over.signal).catch((error: unknown) => lost.abort(error));
  try {
    return await work(AbortSignal.any([signal, lost.signal]));
  } catch (error) {
    throw lost.signal.aborted ? lost.signal.reason : error;
  } finally {
    over.abort();
  }
}

/** The same for what goes on after its handler: calls `cut` when the caller may not have it any more, unless `over` aborts before. */
export function cutWhenCallerMayNot(
  services: Pick<Services, "authentication" | "log">,
  long: LongRequest,
  over: AbortSignal,
  cut: (error: Error) => void,
): void {
  watchCaller(stillMayOf(services, long), services.log, over).catch(cut);
}
