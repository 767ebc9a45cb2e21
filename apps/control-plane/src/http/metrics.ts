import { sandboxStates, type ErrorCode, type SandboxState } from "@roost/contract";
import { observeRounds } from "@roost/kit";
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

import { controlPlaneVersion } from "../version.ts";
import { addPlatformGauges, unlessFailed, type PlatformSources } from "./platform-gauges.ts";

/** From a database look-up (1 ms) over a command in a guest (50 ms) to a cold create (10 s); longer is one bucket */
const requestBucketsSec = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30];

/** Time between two looks at the event loop's lag in `ms`; the default of 10 would wake an idle process 100 times a second */
const eventLoopPrecisionMs = 500;

/** What the control plane counts, as Prometheus text. Seconds on the wire, milliseconds in code. */
export class ControlPlaneMetrics {
  readonly #registry = new Registry();
  readonly #requests: Histogram<"operation" | "status">;
  readonly #sockets: Gauge<"operation">;
  readonly #bytes: Counter<"direction">;
  readonly #proxied: Counter<"result">;
  readonly #deliveries: Counter<"result">;
  readonly #proxiedOpen: Gauge;
  readonly #creates: Histogram<"result">;
  readonly #forgetRounds: () => void;

  constructor(
    countSandboxes: () => Promise<ReadonlyMap<SandboxState, number>>,
    areHostsWatched: () => { readonly id: string; readonly isWatched: boolean }[],
    platform: PlatformSources,
  ) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: eventLoopPrecisionMs });
    new Gauge({ name: "roost_info", help: "Always 1; the version is the label", labelNames: ["version"], registers }).set(
      { version: controlPlaneVersion },
      1,
    );
    this.#requests = new Histogram({
      name: "roost_http_request_duration_seconds",
      help: "Time from a request's headers to the end of its answer",
      labelNames: ["operation", "status"],
      buckets: requestBucketsSec,
      registers,
    });
    this.#sockets = new Gauge({ name: "roost_websockets_open", help: "Open WebSockets", labelNames: ["operation"], registers });
    this.#bytes = new Counter({
      name: "roost_file_bytes_total",
      help: "File bytes carried to and from guests",
      labelNames: ["direction"],
      registers,
    });
    this.#deliveries = new Counter({
      name: "roost_channel_attempts_total",
      help: "Attempts to deliver an event to a channel",
      labelNames: ["result"],
      registers,
    });
    this.#proxied = new Counter({
      name: "roost_proxy_requests_total",
      help: "Requests to ports of sandboxes that have ended, by class of their status; `cut`: broken off without one, or in the answer",
      labelNames: ["result"],
      registers,
    });
    this.#proxiedOpen = new Gauge({ name: "roost_proxy_requests_open", help: "Requests and connections to ports of sandboxes", registers });
    const sandboxes: Gauge<"state"> = new Gauge({
      name: "roost_sandboxes",
      help: "Sandboxes on record, by state",
      labelNames: ["state"],
      registers,
      async collect() {
        const counts = await unlessFailed(countSandboxes);
        this.reset();
        for (const state of counts === undefined ? [] : sandboxStates) this.set({ state }, counts?.get(state) ?? 0);
      },
    });
    const hosts: Gauge<"host"> = new Gauge({
      name: "roost_host_watched",
      help: "Whether changes on a host are being followed",
      labelNames: ["host"],
      registers,
      collect() {
        this.reset(); // one that was deleted is told of no more
        for (const host of areHostsWatched()) this.set({ host: host.id }, host.isWatched ? 1 : 0);
      },
    });
    this.#creates = new Histogram({
      name: "roost_sandbox_create_duration_seconds",
      help: "Time of creates of sandboxes; the result is `ok` or the code of the error",
      labelNames: ["result"],
      buckets: requestBucketsSec,
      registers,
    });
    const rounds = new Histogram({
      name: "roost_loop_round_duration_seconds",
      help: "Time of rounds of what is done again and again: reconcilers, expiry, deliveries, retention",
      labelNames: ["loop", "result"],
      buckets: requestBucketsSec,
      registers,
    });
    this.#forgetRounds = observeRounds(({ loop, isOk, durationMs }) =>
      rounds.observe({ loop, result: isOk ? "ok" : "error" }, durationMs / 1_000),
    );
    addPlatformGauges(this.#registry, platform);
    void sandboxes;
    void hosts;
  }

  observeRequest(operation: string, status: number, durationMs: number): void {
    this.#requests.observe({ operation, status: String(status) }, durationMs / 1_000);
  }

  observeCreate(result: "ok" | ErrorCode, durationMs: number): void {
    this.#creates.observe({ result }, durationMs / 1_000);
  }

  /** Counts no more rounds. */
  close(): void {
    this.#forgetRounds();
  }

  socketOpened(operation: string): void {
    this.#sockets.inc({ operation });
  }

  socketClosed(operation: string): void {
    this.#sockets.dec({ operation });
  }

  countDelivery(isTaken: boolean): void {
    this.#deliveries.inc({ result: isTaken ? "delivered" : "failed" });
  }

  countFileBytes(direction: "up" | "down", bytes: number): void {
    this.#bytes.inc({ direction }, bytes);
  }

  proxyOpened(): void {
    this.#proxiedOpen.inc();
  }

  proxyClosed(result: string): void {
    this.#proxiedOpen.dec();
    this.#proxied.inc({ result });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async text(): Promise<string> {
    return this.#registry.metrics();
  }
}
