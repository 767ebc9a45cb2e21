import { poll } from "@roost/kit";
import { createParser } from "eventsource-parser";

/** One message of a stream. */
export interface StreamMessage {
  /** `message` where the server gives none */
  readonly type: string;
  readonly id: string | undefined;
  readonly data: Record<string, unknown> & { readonly message?: string };
}

/** Collects server-sent events. */
export class TestEventSource implements AsyncDisposable {
  readonly status: number;
  readonly headers: Headers;
  readonly messages: StreamMessage[] = [];
  /** Resolves when the server has ended it. */
  readonly ended: Promise<void>;
  isEnded = false;
  readonly #abort: AbortController;

  private constructor(response: Response, abort: AbortController) {
    this.status = response.status;
    this.headers = response.headers;
    this.#abort = abort;
    const parser = createParser({
      onEvent: ({ id, event, data }) =>
        this.messages.push({ id, type: event ?? "message", data: JSON.parse(data) as StreamMessage["data"] }),
    });
    this.ended = this.#read(response, (text) => parser.feed(text)).finally(() => (this.isEnded = true));
  }

  static async open(url: string, headers: Record<string, string>): Promise<TestEventSource> {
    const abort = new AbortController();
    return new TestEventSource(await fetch(url, { headers, signal: abort.signal }), abort);
  }

  async #read(response: Response, feed: (text: string) => void): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for await (const chunk of response.body ?? []) feed(decoder.decode(chunk as Uint8Array, { stream: true }));
    } catch {
      // cut off, by us or by the server
    }
  }

  /** Events, without signs of life and gaps. */
  get events(): StreamMessage[] {
    return this.messages.filter(({ type }) => type === "message");
  }

  /** What the client would send as `Last-Event-ID`. */
  get lastId(): string {
    return this.messages.at(-1)?.id ?? "";
  }

  async until(count: number): Promise<string[]> {
    const texts = () => this.events.map(({ data }) => data.message ?? "");
    return poll({ what: `${count} events`, timeoutMs: 30_000, intervalMs: 5 }, () => (this.events.length >= count ? texts() : undefined));
  }

  /** Once the server says from where on it sends. */
  async opened(): Promise<this> {
    await poll({ what: "the beginning of the stream", timeoutMs: 30_000, intervalMs: 5 }, () =>
      this.messages.length > 0 ? true : undefined,
    );
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.ended;
  }
}
