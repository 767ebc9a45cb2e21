import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";

import {
  accessTokenHeader,
  guestAgentPort,
  guestInitSchema,
  guestMetricsSchema,
  PlatformError,
  type GuestInit,
  type GuestMetrics,
} from "@roost/contract";
import { DeadlineError, sleep } from "@roost/kit";

import type { DialOptions } from "../network/network.ts";
import type { SandboxSpec } from "../sandbox/sandbox-record.ts";
import { askGuest, type GuestAnswer, type GuestRequest } from "./guest-http.ts";

/**
 * Time one try to reach a guest that is still booting may take in `ms`. A guest whose kernel is not there yet drops packets;
 * TCP would repeat the first one only after a whole second, so trying anew notices its boot sooner.
 */
const dialTryTimeoutMs = 250;
/** Pause between two tries in `ms`: each costs a booting guest CPU that it needs for booting */
const dialPauseMs = 40;
/** Time a guest that accepted a connection has to answer `GET /health` in `ms`; under load a booting TCG guest is slow. */
const healthTimeoutMs = 10_000;
/** Time it has to take its identity in `ms`: it starts helpers for clock and host name, which on a loaded host takes seconds. */
const initTimeoutMs = 60_000;
const metricsTimeoutMs = 5_000;

/** Opens a connection to a port of the guest. */
export type GuestDial = (port: number, options: DialOptions) => Promise<Socket>;

/** What the host itself asks of the guest agent. What users ask goes through tunnels and is never looked at. */
export class GuestClient {
  readonly #dial: GuestDial;
  readonly #accessToken: string;

  constructor(dial: GuestDial, accessToken: string) {
    this.#dial = dial;
    this.#accessToken = accessToken;
  }

  /** Waits until the guest agent answers. Rejects with a `DeadlineError` that tells what happened last, or the signal's reason. */
  async waitUntilHealthy(timeoutMs: number, signal: AbortSignal): Promise<void> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      let status: string;
      try {
        const answer = await this.#ask(
          { method: "GET", path: "/health" },
          { dialTimeoutMs: dialTryTimeoutMs, timeoutMs: healthTimeoutMs, signal },
        );
        if (answer.status >= 200 && answer.status < 300) return;
        status = `it answered ${answer.status}`;
      } catch (error) {
        signal.throwIfAborted();
        status = error instanceof Error ? error.message : String(error);
      }
      if (performance.now() >= end) throw new DeadlineError("the guest agent's first answer", timeoutMs, status);
      await sleep(dialPauseMs, signal);
    }
  }

  /** Tells the guest who it is; also what sets its clock. */
  async init(spec: SandboxSpec, signal: AbortSignal): Promise<void> {
    const body: GuestInit = guestInitSchema.parse({
      accessToken: spec.accessToken,
      envVars: spec.envs,
      timestamp: new Date().toISOString(),
      sandboxId: spec.sandboxId,
      templateId: spec.template,
      hostname: spec.sandboxId,
      machineId: machineIdOf(spec.sandboxId),
      entropy: randomBytes(64).toString("base64"),
    } satisfies GuestInit);
    const answer = await this.#ask(
      { method: "POST", path: "/init", body: JSON.stringify(body), headers: { [accessTokenHeader]: this.#accessToken } },
      { dialTimeoutMs: initTimeoutMs, timeoutMs: initTimeoutMs, signal },
    );
    if (answer.status < 200 || answer.status >= 300) {
      throw new PlatformError("guest_error", "the guest agent refused its identity", {
        detail: `${answer.status} ${answer.body.slice(0, 500)}`,
      });
    }
  }

  /** Memory and disk as the guest sees them. */
  async metrics(signal?: AbortSignal): Promise<GuestMetrics> {
    const answer = await this.#ask(
      { method: "GET", path: "/metrics", headers: { [accessTokenHeader]: this.#accessToken } },
      { dialTimeoutMs: metricsTimeoutMs, timeoutMs: metricsTimeoutMs, ...(signal === undefined ? {} : { signal }) },
    );
    if (answer.status !== 200)
      throw new PlatformError("guest_error", "the guest agent did not tell its metrics", { detail: `status ${answer.status}` });
    return guestMetricsSchema.parse(JSON.parse(answer.body));
  }

  async #ask(
    asked: Omit<GuestRequest, "signal">,
    options: { readonly dialTimeoutMs: number; readonly timeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<GuestAnswer> {
    const socket = await this.#dial(guestAgentPort, {
      timeoutMs: options.dialTimeoutMs,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    const deadline = new AbortController();
    const timer = setTimeout(
      () => deadline.abort(new DeadlineError(`the guest agent's answer to ${asked.path}`, options.timeoutMs)),
      options.timeoutMs,
    );
    try {
      const signal = options.signal === undefined ? deadline.signal : AbortSignal.any([deadline.signal, options.signal]);
      return await askGuest(socket, { ...asked, signal });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Random, and the same for the whole life of a sandbox: its id holds 103 random bits. */
function machineIdOf(sandboxId: string): string {
  return Buffer.from(sandboxId.padEnd(16, "0")).subarray(-16).toString("hex");
}
