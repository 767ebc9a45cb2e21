import { createConnection, createServer, type Server } from "node:net";

import { withDeadline } from "@roost/kit";

import { lockName, type Instance } from "./instance.ts";

/** Time the present owner of the lock has to say its pid in `ms`. */
const askTimeoutMs = 1_000;

/** Two host agents on one state folder. */
export class InstanceLockedError extends Error {
  override readonly name = "InstanceLockedError";
}

/**
 * Only one host agent works on a state folder. The lock is a socket in Linux's abstract namespace: taking it is atomic,
 * and the kernel releases it when the process ends however it ends, so there are no stale lock files to judge.
 * Whoever holds it tells its pid to those who ask. (Abstract names are per network namespace: two containers that share
 * a state folder are not protected from each other.)
 */
export class InstanceLock implements AsyncDisposable {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async take(instance: Instance): Promise<InstanceLock> {
    const server = createServer((socket) => {
      socket.on("error", () => undefined); // who asked has gone: nothing to tell them
      socket.end(`${process.pid}\n`);
    });
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(lockName(instance), resolve);
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
      const owner = await withDeadline("the other host agent's answer", askTimeoutMs, askPid(instance)).catch(() => undefined);
      throw new InstanceLockedError(
        `another host agent (${owner === undefined ? "of unknown pid" : `pid ${owner}`}) already works in ${instance.stateDir}: ` +
          "end it first, or choose another folder with ROOST_DIR",
        { cause: error },
      );
    }
    server.unref();
    return new InstanceLock(server);
  }

  async release(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve()); // an error means it was closed before: the same
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

async function askPid(instance: Instance): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(lockName(instance));
    let text = "";
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.length > 20) socket.destroy(new Error("not a pid"));
    });
    socket.on("error", reject);
    socket.on("end", () => (/^\d+\n$/.test(text) ? resolve(Number(text)) : reject(new Error("not a pid"))));
  });
}
