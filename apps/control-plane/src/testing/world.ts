import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Cleanup, poll, silentLogger, type Logger } from "@roost/kit";
import { WebSocket, type ClientOptions } from "ws";

import { createControlPlane, type ControlPlane } from "../control-plane.ts";
import type { Database } from "../db/database.ts";
import type { HttpDeadlines } from "../http/server.ts";
import { controlPlaneOptions, type ControlPlaneOptions } from "../options.ts";
import type { Mailer } from "../mail/mailer.ts";
import { cheapPasswords } from "./accounts-lab.ts";
import { FakeGuest } from "./fake-guest.ts";
import { FakeHost } from "./fake-host.ts";
import { openTestDatabase } from "./test-database.ts";

export interface WorldOptions {
  readonly options?: Partial<ControlPlaneOptions>;
  readonly log?: Logger;
  readonly deadlines?: HttpDeadlines;
  /** Port of a guest agent that answers in place of the fake one. */
  readonly guestPort?: number;
  readonly mailer?: Mailer;
}

/** A control plane that listens on loopback, with a database of its own, a fake host and a fake guest. */
export class World implements AsyncDisposable {
  readonly host: FakeHost;
  readonly guest: FakeGuest;
  readonly database: Database;
  readonly controlPlane: ControlPlane;
  readonly url: string;
  readonly key: string;
  readonly #cleanup: Cleanup;

  private constructor(parts: Pick<World, "host" | "guest" | "database" | "controlPlane" | "url" | "key">, cleanup: Cleanup) {
    this.host = parts.host;
    this.guest = parts.guest;
    this.database = parts.database;
    this.controlPlane = parts.controlPlane;
    this.url = parts.url;
    this.key = parts.key;
    this.#cleanup = cleanup;
  }

  static async start(options: WorldOptions = {}): Promise<World> {
    const cleanup = new Cleanup();
    try {
      return await World.#make(options, cleanup);
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  static async #make(
    { options = {}, log = silentLogger, deadlines = {}, guestPort: otherGuestPort, mailer }: WorldOptions,
    cleanup: Cleanup,
  ): Promise<World> {
    const guest = new FakeGuest();
    const guestPort = await guest.listen();
    cleanup.defer("close the guest", () => guest.close());
    const host = new FakeHost("host-1", () => otherGuestPort ?? guestPort);
    const database = await openTestDatabase();
    cleanup.defer("close the database", () => database.close());
    const dir = await mkdtemp(join(tmpdir(), "roost-world-"));
    cleanup.defer("remove the state folder", () => rm(dir, { recursive: true, force: true }));
    const all = { ...controlPlaneOptions.read({}), port: 0, drainTimeoutSec: 1, dir, ...options };
    const controlPlane = await createControlPlane(all, { hosts: [host], database, log, deadlines, mailer, passwordCost: cheapPasswords });
    cleanup.defer("close the control plane", () => controlPlane.close());
    const { url } = await controlPlane.listen();
    const { key } = await controlPlane.apiKeys.createForPlatform("test");
    await poll({ what: "the watch of the host", timeoutMs: 30_000, intervalMs: 5 }, async () =>
      (await fetch(`${url}/health`)).ok ? true : undefined,
    );
    return new World({ host, guest, database, controlPlane, url, key }, cleanup);
  }

  /** A request with the world's key. A body that is not a string or bytes is sent as JSON. */
  async request(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
    const isRaw = typeof body === "string" || body instanceof Uint8Array || body instanceof ReadableStream;
    return fetch(this.url + path, {
      method,
      headers: { "x-api-key": this.key, ...(body === undefined || isRaw ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: (isRaw ? body : JSON.stringify(body)) as never, duplex: "half" }),
    });
  }

  async createSandbox(body: object = {}): Promise<{ readonly id: string }> {
    const answer = await this.request("POST", "/v1/sandboxes", body);
    if (answer.status !== 201) throw new Error(`create answered ${answer.status}: ${await answer.text()}`);
    return (await answer.json()) as { id: string };
  }

  async exec(id: string, body: object): Promise<{ readonly status: number; readonly body: Record<string, never> & { stdout: string } }> {
    const answer = await this.request("POST", `/v1/sandboxes/${id}/exec`, body);
    return { status: answer.status, body: (await answer.json()) as never };
  }

  socket(path: string, options: ClientOptions = {}): TestSocket {
    return new TestSocket(this.url.replace("http", "ws") + path, { ...options, headers: { "x-api-key": this.key, ...options.headers } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.run();
  }
}

export type Message = Record<string, unknown> & { readonly type: string };

/** A WebSocket client that collects. */
export class TestSocket {
  readonly raw: WebSocket;
  readonly messages: Message[] = [];
  /** How the connection ended: an HTTP refusal or a close code. */
  readonly ended: Promise<{ readonly status?: number; readonly body?: string; readonly code?: number }>;

  constructor(url: string, options: ClientOptions) {
    this.raw = new WebSocket(url, options);
    this.raw.on("message", (data: Buffer) => this.messages.push(JSON.parse(data.toString("utf8")) as Message));
    this.ended = new Promise((resolve) => {
      this.raw.on("unexpected-response", (_request, response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }));
      });
      this.raw.on("close", (code) => resolve({ code }));
      this.raw.on("error", () => undefined); // close follows
    });
  }

  async open(): Promise<this> {
    if (this.raw.readyState === WebSocket.CONNECTING) {
      await new Promise((resolve, reject) => {
        this.raw.once("open", resolve);
        void this.ended.then((end) => reject(new Error(`not opened: ${JSON.stringify(end)}`)));
      });
    }
    return this;
  }

  send(message: unknown): void {
    this.raw.send(typeof message === "string" || message instanceof Uint8Array ? message : JSON.stringify(message));
  }

  /** The first message of a type, once it is there. */
  async until(type: string, timeoutMs = 10_000): Promise<Message> {
    const found = () => this.messages.find((message) => message.type === type);
    return poll(
      { what: `a message of type ${type}; there are ${this.messages.map((message) => message.type).join(",")}`, timeoutMs, intervalMs: 5 },
      found,
    );
  }

  /** All data of messages of a type, joined. */
  text(type: string): string {
    return this.messages
      .filter((message) => message.type === type)
      .map((message) => String(message["data"]))
      .join("");
  }
}
