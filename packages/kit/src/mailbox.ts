/**
 * A bounded queue between those who post and the one loop that acts.
 * A full mailbox means "busy" now, not a longer queue.
 */
export class Mailbox<Message> {
  readonly #capacity: number;
  readonly #messages: Message[] = [];
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Whether the message was taken. */
  offer(message: Message): boolean {
    if (this.#closed || this.#messages.length >= this.#capacity) return false;
    this.#messages.push(message);
    this.#wake?.();
    return true;
  }

  /** Takes nothing new; what is queued is still delivered, then the iteration ends. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Message> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) {
        yield message;
        continue;
      }
      if (this.#closed) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
