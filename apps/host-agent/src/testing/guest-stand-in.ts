import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import {
  accessTokenHeader,
  guestInitSchema,
  guestLogMarkHeader,
  guestPrepareSchema,
  type GuestInit,
  type GuestLogPage,
  type GuestLogRecord,
  type GuestPrepare,
} from "@roost/contract";

import type { FakeGuest } from "../vmm/fake.ts";

/** Answers as a guest agent does where the host agent asks; everything else echoes. */
export class GuestStandIn implements FakeGuest {
  /** What its programs know: goes where its memory goes */
  knowledge: Record<string, unknown> = {};
  readonly prepares: GuestPrepare[] = [];
  prepareStatus = 204;
  /** It answers 500 when it should be warmed up */
  refusesWarmUp = false;
  readonly inits: { readonly body: GuestInit; readonly token: string | undefined }[] = [];
  address: { readonly host: string; readonly port: number } = { host: "127.0.0.1", port: 0 };
  /** Status of `GET /health`; undefined: it accepts and never answers */
  health: number | undefined = 204;
  initStatus = 204;
  metrics: unknown = {
    ts: 1,
    cpu_count: 1,
    cpu_used_pct: 5,
    mem_total: 1_000,
    mem_used: 400,
    mem_cache: 1,
    disk_used: 70,
    disk_total: 900,
  };
  /** Texts that a process of its own wrote, in records from 1 on */
  readonly output: string[] = [];
  /** When a record was written, in Unix `ms` */
  outputTimeMs = () => Date.now();
  /** What it answers to `GET /logs?…` instead; undefined: nothing, ever */
  answerLogs: ((asked: URLSearchParams) => string | undefined) | undefined;
  readonly logsAsked: number[] = [];
  #server = this.#createServer();

  static async start(): Promise<GuestStandIn> {
    const guest = new GuestStandIn();
    await guest.listen();
    return guest;
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(this.address.port, "127.0.0.1", resolve));
    this.address = { host: "127.0.0.1", port: (this.#server.address() as AddressInfo).port };
  }

  /** Its process ends: connections are cut, new ones refused. */
  async die(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  /** The guest's supervisor has started it again, on the same port. */
  async comeBack(): Promise<void> {
    this.#server = this.#createServer();
    await this.listen();
  }

  capture(): unknown {
    return this.knowledge;
  }

  async close(): Promise<void> {
    await this.die();
  }

  #createServer() {
    return createServer((request, response) => void this.#answer(request, response));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const [path = "", query] = (request.url ?? "").split("?");
    switch (path) {
      case "/health":
        if (this.health !== undefined) response.writeHead(this.health).end();
        return;
      case "/init": {
        const token = request.headers[accessTokenHeader];
        this.inits.push({ body: guestInitSchema.parse(JSON.parse(body.toString())), token: typeof token === "string" ? token : undefined });
        response.writeHead(this.initStatus).end();
        return;
      }
      case "/prepare": {
        const asked = guestPrepareSchema.parse(JSON.parse(body.toString()));
        this.prepares.push(asked);
        response.writeHead(this.refusesWarmUp && asked.warmUp !== undefined ? 500 : this.prepareStatus).end();
        return;
      }
      case "/metrics":
        response
          .writeHead(200, { "content-type": "application/json", [guestLogMarkHeader]: `stand-in ${this.output.length}` })
          .end(JSON.stringify(this.metrics));
        return;
      case "/logs": {
        const asked = new URLSearchParams(query);
        this.logsAsked.push(Number(asked.get("after")));
        const answer = this.answerLogs === undefined ? JSON.stringify(this.#logPage(asked)) : this.answerLogs(asked);
        if (answer !== undefined) response.writeHead(200, { "content-type": "application/json" }).end(answer);
        return;
      }
      default:
        response.writeHead(200).end(body);
    }
  }

  #logPage(asked: URLSearchParams): GuestLogPage {
    const after = Number(asked.get("after"));
    const records = this.output.map((text, index): GuestLogRecord => {
      const data = Buffer.from(text).toString("base64");
      return { n: index + 1, t: this.outputTimeMs(), pid: 42, k: "stdout", data };
    });
    return { epochs: [{ id: "stand-in", first: 1 }], after, newest: records.length, records: records.filter(({ n }) => n > after) };
  }
}
