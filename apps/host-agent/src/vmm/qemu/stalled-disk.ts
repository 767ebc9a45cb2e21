import { second, type Logger } from "@roost/kit";

import { readStatus } from "./device-state.ts";
import type { QmpClient, QmpEvent } from "./qmp.ts";

/** Time between two attempts to go on in `ms`: soon enough that nobody waits long for room that is there again. */
const retryMs = 2 * second;

/**
 * A guest whose disk could not grow because the host's is full. QEMU then stops the guest before it learns of it, so nothing is lost; but somebody has
 * to let it go on once there is room, and that is this. It never lets go on what the host agent has stopped.
 */
export class StalledDisk {
  /** The host agent wants the guest stopped */
  heldByUs = false;
  readonly #qmp: () => QmpClient;
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;

  constructor(qmp: () => QmpClient, log: Logger) {
    this.#qmp = qmp;
    this.#log = log;
  }

  onEvent({ event, data }: QmpEvent): void {
    if (event !== "BLOCK_IO_ERROR" || data["action"] !== "stop") return;
    if (this.#timer === undefined) this.#log.warn({ data }, "a guest is stopped: its disk cannot grow, the host's may be full");
    this.checkSoon();
  }

  /** Looks in a while whether the guest is stopped for its disk, and lets it go on. */
  checkSoon(): void {
    this.#timer ??= setTimeout(() => void this.#check(), retryMs).unref();
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  async #check(): Promise<void> {
    this.#timer = undefined;
    try {
      const { status } = await readStatus(this.#qmp());
      if (status !== "io-error") return;
      if (this.heldByUs) this.checkSoon();
      else await this.#qmp().execute("cont"); // the request that failed is made again; when it fails again, the event comes again
    } catch (error) {
      this.#log.debug({ err: error }, "could not look after a stalled disk"); // the VMM's end, or its silence, is noticed elsewhere
    }
  }
}
