import { poll } from "@roost/kit";

/**
 * Requests and connections that one sandbox may have open at once through the data plane; above it 429. Many programs with many streams each fit;
 * the guest agent and the host have room for 2,048, so that the platform itself always gets through.
 */
export const openRequestsMax = 1_536;

/** One request to a sandbox, from its head to the end of its answer. */
export interface OpenRequest extends Disposable {
  /** A signal for one try to carry it; aborts when the VM that is spoken to is gone. The try before is not cut any more. */
  newTry(): AbortSignal;
}

/** What is under way to each sandbox: counted, and cut when its VM is gone. */
export class OpenRequests {
  /** By sandbox: each request, with what cuts its present try */
  readonly #open = new Map<string, Map<OpenRequest, AbortController | undefined>>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Undefined when the sandbox has too many already. */
  open(sandboxId: string): OpenRequest | undefined {
    const ofSandbox = this.#open.get(sandboxId) ?? new Map<OpenRequest, AbortController | undefined>();
    if (ofSandbox.size >= openRequestsMax) return undefined;
    const request: OpenRequest = {
      newTry: () => {
        const controller = new AbortController();
        if (ofSandbox.has(request)) ofSandbox.set(request, controller);
        return controller.signal;
      },
      [Symbol.dispose]: () => {
        if (!ofSandbox.delete(request)) return;
        this.#count -= 1;
        if (ofSandbox.size === 0) this.#open.delete(sandboxId);
      },
    };
    ofSandbox.set(request, undefined);
    this.#open.set(sandboxId, ofSandbox);
    this.#count += 1;
    return request;
  }

  /** Cuts what is under way to a sandbox's VM. What waits for the sandbox to be resumed goes on waiting. */
  cut(sandboxId: string, reason: Error): void {
    for (const controller of this.#open.get(sandboxId)?.values() ?? []) controller?.abort(reason);
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
