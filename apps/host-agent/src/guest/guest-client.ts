import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";

import {
  accessTokenHeader,
  guestAgentPort,
  guestClockHeader,
  guestInitSchema,
  guestLogMarkHeader,
  guestLogPageSchema,
  guestLogsPath,
  guestMetricsSchema,
  PlatformError,
  type GuestInit,
  type GuestLogCursor,
  type GuestLogPage,
  type GuestMetrics,
  type GuestPrepare,
} from "@roost/contract";
import { DeadlineError, sleep } from "@roost/kit";

import type { DialOptions } from "../network/network.ts";
import { shownTemplate, type SandboxSpec } from "../sandbox/sandbox-record.ts";
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
/** A guest whose clock differs by more than this in `ms` after `/init` is told the time again: its timestamp took 50 to 500 ms when the guest was cold. */
const clockErrorMsMax = 30;
const metricsTimeoutMs = 5_000;
const logsTimeoutMs = 5_000;
/** Longest page of a guest's log in `bytes`: 128 KiB of output grow by a third in base64, and of command lines each character may become six */
const logsAnswerBytesMax = 1024 * 1024;
/** Time it has to write its file systems to the disk in `ms`: what it holds in memory at most, at the speed of a slow disk. */
const prepareTimeoutMs = 120_000;

/** Opens a connection to a port of the guest. */
export type GuestDial = (port: number, options: DialOptions) => Promise<Socket>;

export interface InitOptions {
  /** Token the guest has now, when that is not this sandbox's: of the one it was forked from, or none */
  readonly presentToken?: string | null;
  readonly dialTimeoutMs?: number;
}

/** What the host itself asks of the guest agent. What users ask goes through tunnels and is never looked at. */
export class GuestClient {
  readonly #dial: GuestDial;
  readonly #accessToken: string | null;

  /** `accessToken`: what the guest obeys; null: it has none yet */
  constructor(dial: GuestDial, accessToken: string | null) {
    this.#dial = dial;
    this.#accessToken = accessToken;
  }

  /** Waits until the guest agent answers. Rejects with a `DeadlineError` that tells what happened last, or the signal's reason. */
  async waitUntilHealthy(timeoutMs: number, signal: AbortSignal): Promise<void> {
    await this.untilItAnswers(timeoutMs, signal, async () => {
      const answer = await this.#ask(
        { method: "GET", path: "/health" },
        { dialTimeoutMs: dialTryTimeoutMs, timeoutMs: healthTimeoutMs, signal },
      );
      if (answer.status < 200 || answer.status >= 300) throw new Error(`it answered ${answer.status}`);
    });
  }

  /** Asks again and again until the guest agent has answered: what it refuses (a `PlatformError`) is an answer. */
  async untilItAnswers(timeoutMs: number, signal: AbortSignal, ask: () => Promise<void>): Promise<void> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof PlatformError && error.code !== "guest_unreachable") throw error;
        const status = error instanceof Error ? error.message : String(error);
        if (performance.now() >= end) throw new DeadlineError("the guest agent's first answer", timeoutMs, status);
      }
      await sleep(dialPauseMs, signal);
    }
  }

  /**
   * Tells the guest who it is; also what sets its clock. A guest that has a token already obeys only who knows it: `presentToken`, by
   * default this sandbox's own.
   */
  async init(spec: SandboxSpec, signal: AbortSignal, options: InitOptions = {}): Promise<void> {
    const body: GuestInit = guestInitSchema.parse({
      accessToken: spec.accessToken,
      envVars: { ...spec.defaults.envs, ...spec.envs },
      timestamp: new Date().toISOString(),
      defaultUser: spec.defaults.user, // also when there is none: the guest in a restored memory may have had one
      defaultWorkdir: spec.defaults.workdir,
      sandboxId: spec.sandboxId,
      templateId: shownTemplate(spec),
      hostname: spec.sandboxId,
      machineId: machineIdOf(spec.sandboxId),
      entropy: randomBytes(64).toString("base64"),
      ...(spec.network.authority === null ? {} : { caBundle: spec.network.authority.certificatePem }),
    } satisfies GuestInit);
    const answer = await this.#ask(
      {
        method: "POST",
        path: "/init",
        body: JSON.stringify(body),
        headers: this.#headers(options.presentToken),
      },
      { dialTimeoutMs: options.dialTimeoutMs ?? initTimeoutMs, timeoutMs: initTimeoutMs, signal },
    );
    if (answer.status < 200 || answer.status >= 300) {
      throw new PlatformError("guest_error", "the guest agent refused its identity", {
        detail: `${answer.status} ${answer.body.slice(0, 500)}`,
      });
    }
    const guestClock = Number(answer.headers[guestClockHeader]);
    if (Math.abs(Date.now() - guestClock) > clockErrorMsMax) void this.#setClock(spec.accessToken, signal);
  }

  /** Once more, now that the guest is warm and the timestamp does not get old on its way. Nobody waits for it; if it fails the clock stays late. */
  async #setClock(token: string, signal: AbortSignal): Promise<void> {
    const body: GuestInit = { timestamp: new Date().toISOString() };
    await this.#ask(
      { method: "POST", path: "/init", body: JSON.stringify(body), headers: this.#headers(token) },
      { dialTimeoutMs: initTimeoutMs, timeoutMs: initTimeoutMs, signal },
    ).catch(() => undefined);
  }

  /** Makes programs that start from now on trust a certificate (PEM; "": none), and no other that they were told of before. */
  async trust(certificatePem: string, signal: AbortSignal): Promise<void> {
    const body: GuestInit = { caBundle: certificatePem };
    const answer = await this.#ask(
      { method: "POST", path: "/init", body: JSON.stringify(body), headers: this.#headers() },
      { dialTimeoutMs: initTimeoutMs, timeoutMs: initTimeoutMs, signal },
    );
    if (answer.status < 200 || answer.status >= 300)
      throw new Error(`the guest agent answered ${answer.status} ${answer.body.slice(0, 500)}`);
  }

  /** Makes the guest ready for an image to be taken of it, or to be waited for: see `guestPrepareSchema`. */
  async prepare(what: GuestPrepare, signal?: AbortSignal, options: { readonly presentToken?: string | null } = {}): Promise<void> {
    const answer = await this.#ask(
      { method: "POST", path: "/prepare", body: JSON.stringify(what), headers: this.#headers(options.presentToken) },
      { dialTimeoutMs: initTimeoutMs, timeoutMs: prepareTimeoutMs, ...(signal === undefined ? {} : { signal }) },
    );
    if (answer.status < 200 || answer.status >= 300) {
      throw new PlatformError("guest_error", "the guest agent could not make the guest ready to be saved", {
        detail: `${answer.status} ${answer.body.slice(0, 500)}`,
      });
    }
  }

  /** What the guest's processes did since `cursor`. The guest forgets what came before. */
  async logs(cursor: GuestLogCursor | undefined, signal: AbortSignal): Promise<GuestLogPage> {
    const query = new URLSearchParams({ after: String(cursor?.newest ?? 0), epoch: cursor?.epochs.at(-1)?.id ?? "" });
    const answer = await this.#ask(
      { method: "GET", path: `${guestLogsPath}?${query}`, headers: this.#headers(), answerBytesMax: logsAnswerBytesMax },
      { dialTimeoutMs: logsTimeoutMs, timeoutMs: logsTimeoutMs, signal },
    );
    if (answer.status !== 200)
      throw new PlatformError("guest_error", "the guest agent did not tell its log", { detail: `status ${answer.status}` });
    return guestLogPageSchema.parse(JSON.parse(answer.body));
  }

  /** Memory and disk as the guest sees them, and the mark of its log's newest record. */
  async metrics(signal?: AbortSignal): Promise<{ readonly metrics: GuestMetrics; readonly logMark: string | undefined }> {
    const answer = await this.#ask(
      { method: "GET", path: "/metrics", headers: this.#headers() },
      { dialTimeoutMs: metricsTimeoutMs, timeoutMs: metricsTimeoutMs, ...(signal === undefined ? {} : { signal }) },
    );
    if (answer.status !== 200)
      throw new PlatformError("guest_error", "the guest agent did not tell its metrics", { detail: `status ${answer.status}` });
    const mark = answer.headers[guestLogMarkHeader];
    return { metrics: guestMetricsSchema.parse(JSON.parse(answer.body)), logMark: typeof mark === "string" ? mark : undefined };
  }

  #headers(token: string | null | undefined = this.#accessToken): Record<string, string> {
    return token === null ? {} : { [accessTokenHeader]: token };
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
