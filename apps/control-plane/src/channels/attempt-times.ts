import { hour, minute, second } from "@roost/kit";

/** How long a delivery is tried in `ms`: over a night and a morning somebody repairs what is broken */
export const deliveryTimeoutMs = 24 * hour;
/** Time one try may take in `ms`, from the look-up of the name to the answer's status */
export const attemptTimeoutMs = 10 * second;
/** How long a claimed delivery is left alone by others in `ms`: longer than a try and its record take */
export const leaseMs = 30 * second;

const firstWaitMs = 5 * second;
const longestWaitMs = 1 * hour;
/** Part of a wait that is random, so that what failed together is not tried together */
const jitter = 0.2;
/** Longest that an answer's `Retry-After` is heeded in `ms` */
const retryAfterMsMax = 1 * hour;

/** Failures in a row after which a channel is tried less often, and how often then at least */
const failuresBeforeRest = 3;
const longestRestMs = 1 * minute;

/** Time to the next try after `attempts` of them failed, in `ms`: 5 s, 10 s, 20 s … 1 h, a fifth of it more or less. */
export function waitAfter(attempts: number, retryAfterMs: number, random: () => number = Math.random): number {
  const wait = Math.min(firstWaitMs * 2 ** Math.min(attempts - 1, 20), longestWaitMs);
  const asked = Math.min(retryAfterMs, retryAfterMsMax);
  return Math.max(asked, Math.round(wait * (1 + jitter * (2 * random() - 1))));
}

/** Time in which nothing is sent to a channel after so many failures in a row, in `ms`: a dead one must not keep anybody busy. */
export function restAfter(failures: number): number {
  return failures < failuresBeforeRest ? 0 : Math.min(second * 2 ** Math.min(failures - failuresBeforeRest, 20), longestRestMs);
}
