import { PlatformError } from "@roost/contract";
import { second } from "@roost/kit";
import { RateLimiterMemory } from "rate-limiter-flexible";

/** Time in `ms` over which requests are counted */
const windowMs = 10 * second;
/** Requests in that time beside heartbeats: a certificate, and all that are tried again after an outage */
const othersPerWindow = 20;
/** A host that is restarted over and over may send so many times as many heartbeats as it is asked for */
const heartbeatsFactor = 3;
/** Requests at once: a host sends one after the other, and one again when it was not answered in time */
const requestsAtOnce = 4;

/**
 * What one host may ask of a control plane. Each request is a transaction on the host's row: without a limit one host that is broken, or broken into, would take all connections to the database.
 * Counted by certificate, so that a copy of one that was replaced counts for itself.
 */
export class HostRequestLimits {
  readonly #counter: RateLimiterMemory;
  readonly #underWay = new Map<string, number>();

  constructor(heartbeatMs: number) {
    const points = othersPerWindow + Math.ceil((heartbeatsFactor * windowMs) / heartbeatMs);
    this.#counter = new RateLimiterMemory({ points, duration: windowMs / second });
  }

  /** Answers what is to be called when the request is done; throws `rate_limited`. */
  async begin(fingerprint: string): Promise<() => void> {
    const count = this.#underWay.get(fingerprint) ?? 0;
    if (count >= requestsAtOnce) throw tooMany("at once");
    this.#underWay.set(fingerprint, count + 1);
    const done = () => {
      const left = (this.#underWay.get(fingerprint) ?? 1) - 1;
      if (left > 0) this.#underWay.set(fingerprint, left);
      else this.#underWay.delete(fingerprint);
    };
    try {
      await this.#counter.consume(fingerprint);
    } catch {
      done();
      throw tooMany(`in ${windowMs / second} s`);
    }
    return done;
  }
}

function tooMany(when: string): PlatformError {
  return new PlatformError("rate_limited", `this host sends too many requests ${when}; it is to wait`, {
    retryAfterSec: windowMs / second,
  });
}
