import { poll } from "@roost/kit";

/**
 * Requests and connections that one sandbox may have open at once through the data plane, where no setting says so; above it 429. Many programs with many streams each fit;
 * the guest agent and the host have room for 2,048, so that the platform itself always gets through.
 */
export const openRequestsMaxDefault = 1_536;

/** One request to a sandbox, from its head to the end of its answer. */
export interface OpenRequest extends Disposable {
  /** A signal for one try to carry it; aborts when the VM that is spoken to is gone. The try before is not cut any more. */
  newTry(): AbortSignal;
  /** It has no end of its own: a stream of events, or another protocol. A sandbox that is about to be paused does not wait for it. */
  isEndless(): void;
}

interface Entry {
  /** Cuts the present try */
  controller: AbortController | undefined;
  isEndless: boolean;
}

/** What is under way to each sandbox: counted, and cut when its VM is gone. `Judge`: what says whether a request may still be under way. */
export class OpenRequests<Judge> {
  readonly #max: number;
  readonly #open = new Map<string, Map<Judge, Entry>>();
  /** Sandboxes that are about to be paused: what turns out to be endless now is cut like what was */
  readonly #draining = new Map<string, Error>();
  #count = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#count;
  }

  /** Sandboxes to which something is under way. */
  get sandboxIds(): readonly string[] {
    return [...this.#open.keys()];
  }

  /** Whether anything is under way to it, or would be cut if it were. */
  isConcerned(sandboxId: string): boolean {
    return this.#open.has(sandboxId) || this.#draining.has(sandboxId);
  }

  /** Undefined when the sandbox has too many already. `judge`: one object for each request. */
  open(sandboxId: string, judge: Judge): OpenRequest | undefined {
    const ofSandbox = this.#open.get(sandboxId) ?? new Map<Judge, Entry>();
    if (ofSandbox.size >= this.#max) return undefined;
    const entry: Entry = { controller: undefined, isEndless: false };
    ofSandbox.set(judge, entry);
    this.#open.set(sandboxId, ofSandbox);
    this.#count += 1;
    return {
      newTry: () => {
        entry.controller = new AbortController();
        return entry.controller.signal;
      },
      isEndless: () => {
        entry.isEndless = true;
        const reason = this.#draining.get(sandboxId);
        if (reason !== undefined) entry.controller?.abort(reason);
      },
      [Symbol.dispose]: () => {
        if (!ofSandbox.delete(judge)) return;
        this.#count -= 1;
        if (ofSandbox.size === 0 && this.#open.get(sandboxId) === ofSandbox) this.#open.delete(sandboxId);
      },
    };
  }

  /** Cuts what is under way to a sandbox's VM. What waits for the sandbox to be resumed goes on waiting. */
  cut(sandboxId: string, reason: Error): void {
    this.#draining.delete(sandboxId);
    for (const { controller } of this.#open.get(sandboxId)?.values() ?? []) controller?.abort(reason);
  }

  /** Cuts what would not end by itself, until `drainingEnded`. */
  cutEndless(sandboxId: string, reason: Error): void {
    this.#draining.set(sandboxId, reason);
    for (const { controller, isEndless } of this.#open.get(sandboxId)?.values() ?? []) if (isEndless) controller?.abort(reason);
  }

  drainingEnded(sandboxId: string): void {
    this.#draining.delete(sandboxId);
  }

  /** Cuts each request for which `judge` has a reason. */
  cutWhere(sandboxId: string, reasonOf: (judge: Judge) => Error | undefined): void {
    for (const [judge, { controller }] of this.#open.get(sandboxId) ?? []) {
      const reason = controller === undefined ? undefined : reasonOf(judge);
      if (reason !== undefined) controller?.abort(reason);
    }
  }

  cutAll(reason: Error): void {
    for (const sandboxId of this.#open.keys()) this.cut(sandboxId, reason);
  }

  /** Waits until nothing is under way, at most `timeoutMs`; answers whether it is so. */
  async drained(timeoutMs: number): Promise<boolean> {
    const done = () => (this.#count === 0 ? true : undefined);
    return poll({ what: "the end of requests to guests", timeoutMs }, done).catch(() => false);
  }
}
