import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { NODATA, NOTFOUND } from "node:dns";

import type { Logger } from "@roost/kit";

import { readQuestion, writeAnswer, type DnsQuestion } from "./dns-message.ts";

/** Questions of one guest that wait for the resolvers; one above it gets no answer, and is asked again */
const waitingMax = 64;

export interface NameServerOptions {
  /** The host's end of the slot's veth pair: where it listens */
  readonly hostAddress: string;
  /** The slot's end: the only one who is answered */
  readonly innerAddress: string;
  readonly allowsName: (name: string) => boolean;
  /** Rejects as `dns.resolve4` does */
  readonly findAddresses: (name: string) => Promise<readonly string[]>;
  readonly log: Logger;
}

/**
 * Answers what a guest asks the resolvers, where it may reach names only. A question can carry a message to whoever answers for its name, so only names that the policy allows are asked after at all; every other
 * one does not exist. The host asks, with a question of its own, for IPv4 addresses: those are all that a guest can use, and the few hundred bits that a guest can put into another kind of question stay here.
 */
export class NameServer {
  readonly #options: NameServerOptions;
  readonly #socket: Socket;
  #waiting = 0;
  #isClosed = false;

  private constructor(options: NameServerOptions) {
    this.#options = options;
    this.#socket = createSocket("udp4", (message, from) => void this.#answer(message, from));
  }

  static async open(options: NameServerOptions): Promise<{ readonly server: NameServer; readonly port: number }> {
    const server = new NameServer(options);
    const socket = server.#socket;
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ address: options.hostAddress, port: 0 }, () => {
        socket.off("error", reject);
        resolve();
      });
    });
    socket.on("error", (error) => options.log.warn({ err: error }, "a name server of a guest failed to take or answer a question"));
    return { server, port: socket.address().port };
  }

  async #answer(message: Buffer, from: RemoteInfo): Promise<void> {
    if (from.address !== this.#options.innerAddress || this.#waiting >= waitingMax) return;
    const question = readQuestion(message);
    if (question === undefined) return;
    this.#waiting += 1;
    try {
      const answer = await this.#answerTo(question);
      // What cannot be sent is lost, as datagrams may be
      if (!this.#isClosed) this.#socket.send(answer, from.port, from.address, () => undefined);
    } finally {
      this.#waiting -= 1;
    }
  }

  async #answerTo(question: DnsQuestion): Promise<Buffer> {
    const { name } = question;
    if (name === undefined || !this.#options.allowsName(name)) return writeAnswer(question, "unknownName");
    if (!question.isForAddress) return writeAnswer(question, "found");
    try {
      return writeAnswer(question, "found", await this.#options.findAddresses(name));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === NOTFOUND) return writeAnswer(question, "unknownName");
      return writeAnswer(question, code === NODATA ? "found" : "failed");
    }
  }

  /** Answers no more. Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await new Promise<void>((resolve) => this.#socket.close(resolve));
  }
}
