import { once } from "node:events";

import { WebSocket } from "ws";
import { z } from "zod";

/** Longest that a browser in an emulated guest takes to answer one command in `ms` */
const answerTimeoutMs = 120_000;

const messageSchema = z.object({
  id: z.int().optional(),
  result: z.unknown().optional(),
  error: z.object({ message: z.string() }).optional(),
});

/** A client of Chromium's DevTools protocol, as far as a test needs one: commands and their answers. */
export class DevTools implements Disposable {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (message: z.infer<typeof messageSchema>) => void>();
  #last = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer) => {
      const message = messageSchema.parse(JSON.parse(data.toString("utf8")));
      if (message.id !== undefined) this.#waiting.get(message.id)?.(message);
    });
  }

  static async connect(url: string, headers: Readonly<Record<string, string>>): Promise<DevTools> {
    const socket = new WebSocket(url, { headers, handshakeTimeout: answerTimeoutMs });
    await once(socket, "open");
    return new DevTools(socket);
  }

  /** Sends a command, to the browser or to a page's session, and gives its result. */
  async send<Result>(schema: z.ZodType<Result>, method: string, params: object = {}, sessionId?: string): Promise<Result> {
    const id = (this.#last += 1);
    const answered = new Promise<z.infer<typeof messageSchema>>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method} was not answered`)), answerTimeoutMs);
      this.#waiting.set(id, (message) => {
        clearTimeout(timer);
        resolve(message);
      });
    });
    this.#socket.send(JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) }));
    const { result, error } = await answered;
    this.#waiting.delete(id);
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return schema.parse(result);
  }

  [Symbol.dispose](): void {
    this.#socket.terminate();
  }
}
