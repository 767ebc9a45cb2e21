import type { Logger } from "@roost/kit";

import type { SandboxSpec } from "../sandbox/sandbox-record.ts";
import type { GuestClient } from "./guest-client.ts";

/** Shortest time between two checks that nobody waits for, in `ms` */
const checkPauseMs = 5_000;

/**
 * What happens when the guest agent does not answer although the VM runs: its process ended (a user killed it, memory ran
 * out) and the guest's supervisor starts it again within a second.
 *
 * There is no polling of healthy guests: somebody notices (a tunnel refused or cut, metrics that fail) and asks for a check,
 * which waits for the agent's answer and sends `/init` again. The agent keeps its identity in a file, so it is never open
 * in between; `/init` also sets its clock. The sandbox stays `running`; commands whose streams went through the dead agent
 * are lost to their callers, new requests work.
 */
export class GuestRecovery {
  readonly #client: GuestClient;
  readonly #spec: () => SandboxSpec;
  readonly #log: Logger;
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal;
  #underWay: Promise<void> | undefined;
  #lastCheckMs = Number.NEGATIVE_INFINITY;

  constructor(options: {
    readonly client: GuestClient;
    readonly spec: () => SandboxSpec;
    readonly log: Logger;
    /** Time the guest agent has to come back in `ms` */
    readonly timeoutMs: number;
    /** Aborts when the VM ends */
    readonly signal: AbortSignal;
  }) {
    this.#client = options.client;
    this.#spec = options.spec;
    this.#log = options.log;
    this.#timeoutMs = options.timeoutMs;
    this.#signal = options.signal;
  }

  /** The check that is under way, if one is: who needs the guest agent waits for it. */
  get underWay(): Promise<void> | undefined {
    return this.#underWay;
  }

  /** Resolves when the guest agent answers and knows who it is. All who ask while a check is under way share it. */
  async recover(why: string): Promise<void> {
    this.#underWay ??= this.#check(why).finally(() => {
      this.#underWay = undefined;
    });
    return this.#underWay;
  }

  /** The same for those who only noticed something: in the background, and not often. */
  notice(why: string): void {
    if (this.#underWay !== undefined || this.#signal.aborted || performance.now() - this.#lastCheckMs < checkPauseMs) return;
    this.recover(why).catch(() => undefined); // logged in #check; who needs the guest next will ask again
  }

  async #check(why: string): Promise<void> {
    try {
      await this.#client.waitUntilHealthy(this.#timeoutMs, this.#signal);
      await this.#client.init(this.#spec(), this.#signal);
      this.#log.info({ why }, "the guest agent was looked after and answers");
    } catch (error) {
      if (!this.#signal.aborted) this.#log.warn({ err: error, why }, "the guest agent does not answer");
      throw error;
    } finally {
      this.#lastCheckMs = performance.now();
    }
  }
}
