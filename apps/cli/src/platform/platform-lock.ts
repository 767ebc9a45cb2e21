import { createHash } from "node:crypto";
import { createServer, type Server } from "node:net";
import { realpath } from "node:fs/promises";

/**
 * Only one platform works in a state folder: two would write one database. The lock is a socket in Linux's abstract
 * namespace: taking it is atomic, and the kernel gives it back however the process ends.
 */
export class PlatformLock implements AsyncDisposable {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Undefined when another process holds it. */
  static async take(dir: string): Promise<PlatformLock | undefined> {
    const server = createServer((socket) => socket.destroy());
    const name = await lockName(dir);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(name, resolve);
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") return undefined;
      throw error;
    }
    server.unref();
    return new PlatformLock(server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Of the folder itself, whatever links lead to it. */
async function lockName(dir: string): Promise<string> {
  const folder = await realpath(dir);
  return `\0roost-platform-${createHash("sha256").update(folder).digest("hex").slice(0, 32)}`;
}
