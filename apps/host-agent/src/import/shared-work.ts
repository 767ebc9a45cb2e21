/** Work that several callers may want at once: it is done once, every caller hears how far it is, and it ends when the last of them has gone away. */
export class SharedWork<Result, Report> {
  readonly #running = new Map<string, Running<Result, Report>>();

  /** Does `work`, or joins the one that is under way under that key. Rejects with the signal's reason when that aborts. */
  async join(
    key: string,
    caller: { readonly signal: AbortSignal; readonly onReport: (report: Report) => void },
    work: (signal: AbortSignal, report: (report: Report) => void) => Promise<Result>,
  ): Promise<{ readonly result: Result; readonly isFirst: boolean }> {
    caller.signal.throwIfAborted();
    const present = this.#running.get(key);
    const running = present ?? this.#start(key, work);
    running.callers.add(caller.onReport);
    const gone = new Promise<never>((_resolve, reject) => {
      caller.signal.addEventListener("abort", () => reject(caller.signal.reason as Error), { once: true });
    });
    try {
      return { result: await Promise.race([running.promise, gone]), isFirst: present === undefined };
    } finally {
      running.callers.delete(caller.onReport);
      if (running.callers.size === 0) this.#end(key, running);
      // An end that was asked for is over when what was under way has been tidied up
      if (caller.signal.aborted && running.callers.size === 0) await running.promise.catch(() => undefined);
    }
  }

  /** Ends all of it; resolves when it has ended. */
  async close(): Promise<void> {
    const all = [...this.#running.entries()];
    for (const [key, running] of all) this.#end(key, running);
    await Promise.allSettled(all.map(([, { promise }]) => promise));
  }

  #start(key: string, work: (signal: AbortSignal, report: (report: Report) => void) => Promise<Result>): Running<Result, Report> {
    const controller = new AbortController();
    const callers = new Set<(report: Report) => void>();
    const promise = work(controller.signal, (report) => {
      for (const tell of callers) tell(report);
    }).finally(() => {
      if (this.#running.get(key)?.controller === controller) this.#running.delete(key);
    });
    promise.catch(() => undefined); // each caller hears of it; there may be none left
    const running = { promise, controller, callers };
    this.#running.set(key, running);
    return running;
  }

  #end(key: string, running: Running<Result, Report>): void {
    if (this.#running.get(key) === running) this.#running.delete(key); // who comes now begins anew
    running.controller.abort(new Error("nobody waits for it any more"));
  }
}

interface Running<Result, Report> {
  readonly promise: Promise<Result>;
  readonly controller: AbortController;
  readonly callers: Set<(report: Report) => void>;
}
