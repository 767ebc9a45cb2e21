import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError } from "@roost/contract";
import { DeadlineError, Deferred } from "@roost/kit";

import type { Activity } from "../sandbox/activity.ts";
import type { GuestDial } from "./guest-client.ts";
import type { GuestRecovery } from "./guest-recovery.ts";

/** Connections one sandbox may have open through the host at once; above it `sandbox_busy`. The guest agent takes as many. */
export const tunnelCountMax = 2_048;
/** Time a running guest has to accept a connection in `ms`; under TCG and load it may take seconds. */
const dialTimeoutMs = 10_000;

/** The open byte tunnels into one running VM. */
export class TunnelSet {
  readonly #dial: GuestDial;
  readonly #activity: Activity;
  readonly #recovery: GuestRecovery;
  readonly #open = new Set<Duplex>();
  #dialing = 0;
  /** Tunnels to other ports than the guest agent's, also those that are dialled */
  #portCount = 0;
  #portsClosed: Deferred<void> | undefined;
  #ended: Error | undefined;

  constructor(options: { readonly dial: GuestDial; readonly activity: Activity; readonly recovery: GuestRecovery }) {
    this.#dial = options.dial;
    this.#activity = options.activity;
    this.#recovery = options.recovery;
  }

  get size(): number {
    return this.#open.size;
  }

  async connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    if (this.#ended !== undefined) throw this.#ended;
    if (this.#open.size + this.#dialing >= tunnelCountMax) {
      throw new PlatformError(
        "sandbox_busy",
        `this sandbox has ${tunnelCountMax} connections open already; close some or try again later`,
        {
          retryAfterSec: 1,
        },
      );
    }
    this.#dialing += 1;
    this.#activity.tunnelOpened(); // the dial is use already
    if (port !== guestAgentPort) this.#portCount += 1;
    try {
      const socket = await this.#dialPort(port, signal);
      if (this.#ended !== undefined) {
        socket.destroy();
        throw this.#ended;
      }
      this.#keep(socket, port);
      return socket;
    } catch (error) {
      this.#activity.tunnelClosed();
      this.#closed(port);
      throw error;
    } finally {
      this.#dialing -= 1;
    }
  }

  async #dialPort(port: number, signal: AbortSignal | undefined) {
    const options = { timeoutMs: dialTimeoutMs, ...(signal === undefined ? {} : { signal }) };
    try {
      if (port !== guestAgentPort) return await this.#dial(port, options);
      await waitFor(this.#recovery.underWay, signal);
      try {
        return await this.#dial(port, options);
      } catch (error) {
        if (!isRefused(error)) throw error;
        // Its process has ended: the guest's supervisor starts it again
        await waitFor(this.#recovery.recover("a connection was refused"), signal);
        return await this.#dial(port, options);
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (this.#ended !== undefined) throw this.#ended;
      throw unreachableError(port, error);
    }
  }

  #keep(socket: Duplex, port: number): void {
    this.#open.add(socket);
    let cut = false;
    socket.once("error", () => {
      cut = true;
    });
    // The guest closed first: usual at the end of an answer, and what a dying guest agent looks like
    socket.once("end", () => {
      cut ||= !socket.writableEnded;
    });
    socket.once("close", () => {
      this.#open.delete(socket);
      this.#activity.tunnelClosed();
      this.#closed(port);
      if (cut && port === guestAgentPort && this.#ended === undefined) this.#recovery.notice("a connection was cut");
    });
  }

  #closed(port: number): void {
    if (port === guestAgentPort) return;
    this.#portCount -= 1;
    if (this.#portCount === 0) this.#portsClosed?.resolve();
  }

  /**
   * Resolves when no tunnel to a port is open, or after `timeoutMs`, or when `over` does; answers whether none is. Those to the guest agent are not waited for: commands
   * and terminals go on after a pause, and who follows them connects anew.
   */
  async portsDrained(timeoutMs: number, over: Promise<unknown>): Promise<boolean> {
    if (this.#portCount === 0 || timeoutMs === 0) return this.#portCount === 0;
    const closed = (this.#portsClosed ??= new Deferred());
    const timer = setTimeout(() => closed.resolve(), timeoutMs);
    void over.then(() => closed.resolve());
    await closed.promise;
    clearTimeout(timer);
    this.#portsClosed = undefined;
    return this.#portCount === 0;
  }

  /** Cuts every tunnel; later ones are refused with `reason`. */
  end(reason: Error): void {
    this.#ended ??= reason;
    for (const socket of this.#open) socket.destroy(reason);
  }
}

function isRefused(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ECONNREFUSED";
}

function unreachableError(port: number, error: unknown): PlatformError {
  const why = isRefused(error)
    ? "nothing listens there"
    : error instanceof DeadlineError
      ? "it did not answer in time"
      : "the connection failed";
  const what = port === guestAgentPort ? "the guest agent" : `port ${port} of the sandbox`;
  return new PlatformError("guest_unreachable", `could not reach ${what}: ${why}`, { cause: error, retryAfterSec: 1 });
}

async function waitFor(promise: Promise<void> | undefined, signal: AbortSignal | undefined): Promise<void> {
  if (promise === undefined) return;
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
