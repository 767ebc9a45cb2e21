import { rm } from "node:fs/promises";
import { createServer, request, type Server } from "node:http";
import { join } from "node:path";

/** Answers in a state folder's path: a unix socket's has at most 107 bytes */
export const healthSocketPath = (dir: string) => join(dir, "health.sock");
const pathBytesMax = 107;
/** Time for an answer in `ms` */
const askTimeoutMs = 2_000;
/** Longest answer that is read, in characters */
const answerLengthMax = 64 * 1024;

export interface Health {
  readonly healthy: boolean;
}

/**
 * `GET /health` of a process without an API, on a unix socket in its state folder: 200 or 503, and JSON that says more.
 *
 *     curl --unix-socket /var/lib/roost/health.sock http://localhost/health
 */
export class HealthSocket {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(dir: string, health: () => Health): Promise<HealthSocket> {
    const path = healthSocketPath(dir);
    if (Buffer.byteLength(path) > pathBytesMax)
      throw new Error(`ROOST_DIR=${dir} is too long: sockets in it have paths of at most ${pathBytesMax} bytes`);
    await rm(path, { force: true }); // of a process that was killed: the folder's lock is ours
    const server = createServer((asked, response) => {
      if (asked.url !== "/health" || asked.method !== "GET") {
        response.writeHead(404).end();
        return;
      }
      const answer = health();
      response.writeHead(answer.healthy ? 200 : 503, { "content-type": "application/json" }).end(`${JSON.stringify(answer)}\n`);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
    return new HealthSocket(server);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** What the process that works in a state folder says of itself; undefined when none answers. */
export async function askHealthSocket(dir: string): Promise<unknown> {
  return new Promise((resolve) => {
    const asked = request({ socketPath: healthSocketPath(dir), path: "/health", timeout: askTimeoutMs }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        if (text.length > answerLengthMax) response.destroy();
      });
      response.on("error", () => resolve(undefined));
      response.on("end", () => {
        try {
          resolve(JSON.parse(text));
        } catch {
          resolve(undefined);
        }
      });
    });
    asked.on("timeout", () => asked.destroy());
    asked.on("error", () => resolve(undefined));
    asked.end();
  });
}
