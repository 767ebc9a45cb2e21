import {
  certificateRenewAfter,
  heartbeatAnswerSchema,
  hostCertificateSchema,
  hostPortPaths,
  PlatformError,
  type HeartbeatBody,
  type WantedHostState,
} from "@roost/contract";
import { minute, second, ServiceLoop, type Logger } from "@roost/kit";

import { ControlPlanePort } from "./control-plane-port.ts";
import { lifeOf, writeIdentity, type HostIdentity } from "./host-identity.ts";
import type { HostReport } from "./host-report.ts";
import { makeKeyAndRequest, type KeyAndRequest } from "./key-and-request.ts";

/** Time between heartbeats in `ms` until the control plane says another */
const heartbeatMsDefault = 10 * second;
/** A control plane that was away is found again within this many `ms`, before leases end for it */
const backoffMsMax = 10 * second;
/** Time between two attempts to get the next certificate, in `ms`; a third of a certificate's life is left for them */
const renewRetryMs = 1 * minute;
/** Clocks that differ by more than this in `ms` are a problem that an operator should know of */
const clockOffsetMsMax = 5 * second;

/** Why a host is none any more, by what the control plane answers. */
const endings: Readonly<Record<string, string>> = {
  host_deleted:
    "this host was deleted from its control plane. Its sandboxes and their data are still here, and it takes no new ones. " +
    "To use it again: `roost host add` makes a token, then `roost host-agent --register TOKEN`; else end this service and remove the state folder",
  host_certificate_refused:
    "the control plane does not accept this host's certificate: it was replaced, perhaps by a copy of this state folder on another machine. " +
    "`roost host token ID` makes a token for this very host, then `roost host-agent --register TOKEN`",
};

export interface MembershipOptions {
  readonly dir: string;
  readonly identity: HostIdentity;
  readonly report: () => Promise<HostReport>;
  /** The next certificate is here: to be shown from now on */
  readonly onIdentity: (identity: HostIdentity) => void;
  /** The control plane does not want this host any more; nothing is sent after this */
  readonly onEnded: () => void;
  readonly log: Logger;
  readonly now?: () => number;
}

export interface MembershipStatus {
  readonly hostId: string;
  readonly controlPlane: string;
  readonly wanted: WantedHostState | null;
  /** Unix `ms` of the last heartbeat that was answered; null: none was yet */
  readonly timeHeardMs: number | null;
  /** Until when the control plane counts this host as reachable, Unix `ms` */
  readonly leaseEndsMs: number | null;
  /** By how much this host's clock is ahead of the control plane's, in `ms` */
  readonly clockOffsetMs: number;
  readonly certificateEndsMs: number;
  /** Why the control plane does not want it any more */
  readonly ended: string | null;
}

/**
 * A registered host's side of its membership: heartbeats, and the next certificate before the present one ends.
 *
 * A control plane that is away changes nothing on the host: sandboxes go on, and it is asked again, sooner than its leases end. Only an answer "you are none of mine"
 * ends the membership, never the sandboxes.
 */
export class Membership {
  readonly #options: MembershipOptions;
  readonly #now: () => number;
  #identity: HostIdentity;
  #port: ControlPlanePort;
  /** Kept until it has its certificate: an attempt whose answer was lost is repeated with the same */
  #nextKey: KeyAndRequest | undefined;
  #renewNotBeforeMs = 0;
  #heartbeatMs = heartbeatMsDefault;
  #wanted: WantedHostState | null = null;
  #timeHeardMs: number | null = null;
  #leaseEndsMs: number | null = null;
  #clockOffsetMs = 0;
  #ended: string | null = null;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#identity = options.identity;
    this.#port = portOf(options.identity);
  }

  get status(): MembershipStatus {
    return {
      hostId: this.#identity.hostId,
      controlPlane: this.#identity.controlPlane,
      wanted: this.#wanted,
      timeHeardMs: this.#timeHeardMs,
      leaseEndsMs: this.#leaseEndsMs,
      clockOffsetMs: this.#clockOffsetMs,
      certificateEndsMs: lifeOf(this.#identity.certificatePem).toMs,
      ended: this.#ended,
    };
  }

  /** Until the signal aborts, or the control plane does not want this host any more. */
  async run(signal: AbortSignal): Promise<void> {
    const ended = new AbortController();
    const both = AbortSignal.any([signal, ended.signal]);
    const loop = new ServiceLoop("heartbeat", this.#options.log, both, { backoffMsMax });
    while (loop.shouldRun()) {
      try {
        await this.#renewIfDue(both);
        await this.#beat(both);
        loop.resetBackoff();
        await loop.sleep(this.#heartbeatMs * (0.9 + Math.random() / 5)); // hosts that began together do not stay together
      } catch (error) {
        if (this.#endedBy(error)) ended.abort();
        else await loop.backoff(error);
      }
    }
  }

  async #beat(signal: AbortSignal): Promise<void> {
    const report = await this.#options.report();
    const problems = [...report.health.problems, ...this.#problems()];
    const sentMs = this.#now();
    const body: HeartbeatBody = {
      time: new Date(sentMs).toISOString(),
      address: this.#identity.address,
      description: report.description,
      load: report.load,
      health: { is_healthy: problems.length === 0, problems },
    };
    const answer = await this.#port.post(hostPortPaths.heartbeat, body, heartbeatAnswerSchema, signal);
    const heardMs = this.#now();
    if (this.#timeHeardMs === null || answer.wanted !== this.#wanted) {
      this.#options.log.info({ wanted: answer.wanted }, "the control plane knows this host");
    }
    this.#wanted = answer.wanted;
    this.#timeHeardMs = heardMs;
    this.#leaseEndsMs = heardMs + answer.lease_sec * second;
    this.#heartbeatMs = answer.heartbeat_sec * second;
    this.#clockOffsetMs = Math.round((sentMs + heardMs) / 2 - Date.parse(answer.time));
  }

  #problems(): string[] {
    const offsetSec = Math.round(Math.abs(this.#clockOffsetMs) / second);
    if (Math.abs(this.#clockOffsetMs) <= clockOffsetMsMax) return [];
    return [`its clock is ${offsetSec} s ${this.#clockOffsetMs > 0 ? "ahead of" : "behind"} the control plane's: set it by NTP`];
  }

  /** What fails here is tried again later, and stops no heartbeat, unless this host is wanted no more. */
  async #renewIfDue(signal: AbortSignal): Promise<void> {
    const { fromMs, toMs } = lifeOf(this.#identity.certificatePem);
    const nowMs = this.#now();
    if (nowMs < fromMs + (toMs - fromMs) * certificateRenewAfter || nowMs < this.#renewNotBeforeMs) return;
    this.#renewNotBeforeMs = nowMs + renewRetryMs;
    const { log, dir } = this.#options;
    try {
      const next = (this.#nextKey ??= await makeKeyAndRequest());
      const answer = await this.#port.post(hostPortPaths.certificate, { csr_pem: next.requestPem }, hostCertificateSchema, signal);
      const identity: HostIdentity = { ...this.#identity, keyPem: next.keyPem, certificatePem: answer.certificate_pem };
      await writeIdentity(dir, identity);
      this.#identity = identity;
      this.#port = portOf(identity);
      this.#nextKey = undefined;
      this.#renewNotBeforeMs = 0;
      this.#options.onIdentity(identity);
      log.info({ until: new Date(lifeOf(identity.certificatePem).toMs).toISOString() }, "this host has its next certificate");
    } catch (error) {
      if (isEnding(error)) throw error;
      if (signal.aborted) return;
      const ends = new Date(toMs).toISOString();
      if (nowMs < toMs) log.warn({ err: error, ends }, "the next certificate is not here yet, will ask again");
      else {
        const advice = "`roost host token ID` makes a token for this very host, then `roost host-agent --register TOKEN`";
        log.error({ err: error, ends }, `this host's certificate has ended, so the control plane does not know it: ${advice}`);
      }
    }
  }

  #endedBy(error: unknown): boolean {
    if (!isEnding(error)) return false;
    const why = endings[error.code] ?? error.message;
    this.#ended = why;
    this.#options.log.error({ code: error.code }, why);
    this.#options.onEnded();
    return true;
  }
}

function isEnding(error: unknown): error is PlatformError {
  return error instanceof PlatformError && error.code in endings;
}

function portOf({ controlPlane, caPem, keyPem, certificatePem }: HostIdentity): ControlPlanePort {
  return new ControlPlanePort(controlPlane, { caPem, own: { keyPem, certificatePem } });
}
