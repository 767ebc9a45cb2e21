import { createClient, type Client, type Transport } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import type { GuestTunnels, PlatformError } from "@roost/contract";
import { minute, nap, second, ServiceLoop, type Logger } from "@roost/kit";
import { RateLimiterMemory, type RateLimiterRes } from "rate-limiter-flexible";

import type { NewEvent } from "../db/events.ts";
import type { ObservedSandbox } from "../db/sandboxes.ts";
import type { HostInfo } from "./host-info.ts";
import { fromConnectError } from "./from-connect-error.ts";
import { tracedTransport } from "../telemetry/traced-transport.ts";
import { eventFrom, hostInfoFrom, observedFrom, templateFrom, type HostTemplate } from "./observed.ts";

/** How a control plane reaches one host agent: its RPCs, and tunnels into its guests. */
export interface HostDependency {
  readonly id: string;
  readonly transport: Transport;
  readonly tunnels: GuestTunnels;
}

/** What a host link reports. Reports of one host come one at a time, in order. */
export interface HostEvents {
  /** Id of the newest event of the host that is remembered; undefined: none is */
  lastEventId(): Promise<string | undefined>;
  observed(sandbox: ObservedSandbox): Promise<void>;
  removed(sandboxId: string): Promise<void>;
  /** Something that is to be remembered; may be told more than once. */
  happened(event: NewEvent): Promise<void>;
  /** All of the host's sandboxes have been reported; from here on changes follow. */
  synced(): Promise<void>;
}

export interface HostDescription {
  readonly info: HostInfo;
  readonly templates: readonly HostTemplate[];
}

/** A watch that says nothing, not even keepalive, for this long in `ms` is dead; hosts send one every 30 s */
const watchSilenceMs = 90 * second;
/** Events of a host that are taken in `eventWindowMs`: all that it remembers at once. It is not read any further until the time is over */
export const eventsPerWindow = 1_000;
const eventWindowMs = 10 * second;
/** Longest wait for the host's description in `ms` */
const describeTimeoutMs = 5 * second;
/** A host that has been asked for this long in `ms` hangs: it is not asked a second time */
const hangingMs = 500;
/** A description this old in `ms` still serves lists and placement */
export const descriptionAgeMs = 2 * second;
/** Longest a host has to list its sandboxes in `ms` */
const listTimeoutMs = 30 * second;

/** Time a host has to start a sandbox in `ms`: its own deadlines are shorter; this one is for a host that hangs */
export const createTimeoutMs = 5 * minute;
/** Time a host has to end a sandbox in `ms` */
export const destroyTimeoutMs = 1 * minute;
/** Time a host has to save or restore a sandbox in `ms`: gigabytes of memory written to a slow disk, or a guest that boots; its own deadlines are shorter */
export const saveTimeoutMs = 5 * minute;
/** Time a host has for anything else in `ms` */
export const callTimeoutMs = 10 * second;

/** One host as the control plane sees it: a client, and a loop that keeps a watch on its sandboxes. */
export class HostLink {
  readonly id: string;
  readonly client: Client<typeof HostAgentService>;
  readonly tunnels: GuestTunnels;
  readonly #log: Logger;
  readonly #eventCounter = new RateLimiterMemory({ points: eventsPerWindow, duration: eventWindowMs / second });
  #isWatching = false;
  #description: { readonly value: HostDescription; readonly time: number } | undefined;
  #timeForgotten = 0;
  /** A question for it that is under way, and since when */
  #describing: { readonly answer: Promise<HostDescription>; readonly time: number } | undefined;

  constructor(host: HostDependency, log: Logger) {
    this.id = host.id;
    this.client = createClient(HostAgentService, tracedTransport(host.transport, "host-agent"));
    this.tunnels = host.tunnels;
    this.#log = log.child({ hostId: host.id });
  }

  /** Whether changes on the host are being followed. */
  get isWatching(): boolean {
    return this.#isWatching;
  }

  /** Whether it has been asked what it is, and should have answered by now. */
  get isHanging(): boolean {
    return this.#describing !== undefined && performance.now() - this.#describing.time > hangingMs;
  }

  /** What the host says of itself, at most `ageMs` old. */
  async describe(ageMs = descriptionAgeMs): Promise<HostDescription> {
    const known = this.#description;
    if (known !== undefined && performance.now() - known.time <= ageMs) return known.value;
    // Whoever asks while it is being asked gets the same answer; so does, unless it has to be new, who asks of a host that hangs
    const under = this.#describing;
    const underMs = under === undefined ? 0 : performance.now() - under.time;
    if (under !== undefined && (underMs <= ageMs || (ageMs > 0 && underMs > hangingMs))) return under.answer;
    const time = performance.now();
    const answer = this.#askDescription(time).finally(() => {
      if (this.#describing?.time === time) this.#describing = undefined;
    });
    this.#describing = { answer, time };
    return answer;
  }

  async #askDescription(time: number): Promise<HostDescription> {
    const answer = await this.call(() => this.client.getHost({}, { timeoutMs: describeTimeoutMs }));
    const value = { info: hostInfoFrom(answer), templates: answer.templates.map(templateFrom) };
    if (time >= this.#timeForgotten && (this.#description === undefined || this.#description.time < time))
      this.#description = { value, time };
    return value;
  }

  /** Its templates or room have changed: what it said of itself does not count any more. */
  forgetDescription(): void {
    this.#description = undefined;
    this.#describing = undefined;
    this.#timeForgotten = performance.now();
  }

  async listSandboxes(): Promise<ObservedSandbox[]> {
    const answer = await this.call(() => this.client.listSandboxes({}, { timeoutMs: listTimeoutMs }));
    return answer.sandboxes.map((sandbox) => observedFrom(sandbox, this.id));
  }

  /** The sandbox, or undefined when the host does not know it. */
  async getSandbox(sandboxId: string, timeoutMs = callTimeoutMs): Promise<ObservedSandbox | undefined> {
    try {
      const answer = await this.call(() => this.client.getSandbox({ sandboxId }, { timeoutMs }));
      return observedFrom(answer.sandbox, this.id);
    } catch (error) {
      if ((error as PlatformError).code === "sandbox_not_found") return undefined;
      throw error;
    }
  }

  /** Runs one RPC; its failure becomes a `PlatformError`. */
  async call<Answer>(rpc: () => Promise<Answer>): Promise<Answer> {
    try {
      return await rpc();
    } catch (error) {
      throw fromConnectError(error, this.id);
    }
  }

  /** Follows the host until `signal` aborts; a lost watch is opened again. */
  async run(signal: AbortSignal, events: HostEvents): Promise<void> {
    const loop = new ServiceLoop("host watch", this.#log, signal);
    while (loop.shouldRun()) {
      try {
        await this.#watch(signal, events, () => loop.resetBackoff());
        await loop.backoff(new Error("the host ended the watch"));
      } catch (error) {
        await loop.backoff(error);
      }
    }
  }

  /** Each event is a row: a host that is broken, or broken into, must not fill the database with them as fast as it can. */
  async #untilTaken(signal: AbortSignal): Promise<void> {
    for (;;) {
      const late = await this.#eventCounter.consume(this.id).then(
        () => undefined,
        (result: RateLimiterRes) => result,
      );
      if (late === undefined || signal.aborted) return;
      await nap(late.msBeforeNext, signal);
    }
  }

  async #watch(signal: AbortSignal, events: HostEvents, onSynced: () => void): Promise<void> {
    const silence = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(new Error("the host fell silent")), watchSilenceMs);
    };
    heard();
    try {
      const lastEventId = (await events.lastEventId()) ?? "";
      for await (const message of this.client.watchSandboxes({ lastEventId }, { signal: AbortSignal.any([signal, silence.signal]) })) {
        heard();
        switch (message.event.case) {
          case "sandbox":
            await events.observed(observedFrom(message.event.value, this.id));
            break;
          case "removedSandboxId":
            await events.removed(message.event.value);
            break;
          case "happened": {
            const event = eventFrom(message.event.value, this.id);
            if (event === undefined) this.#log.debug({ kind: message.event.value.kind }, "an event of a kind that is not known here");
            else {
              await this.#untilTaken(signal);
              await events.happened(event);
            }
            break;
          }
          case "synced":
            await events.synced();
            this.#isWatching = true;
            this.#log.info("following the host's sandboxes");
            onSynced();
            break;
          case "keepalive":
          case undefined:
            break;
        }
      }
    } finally {
      clearTimeout(timer);
      if (this.#isWatching && !signal.aborted) this.#log.warn("no longer following the host's sandboxes");
      this.#isWatching = false;
    }
  }
}
