import { randomFillSync } from "node:crypto";
import { connect } from "node:net";
import { hostname } from "node:os";

import { create, toBinary } from "@bufbuild/protobuf";
import { accessTokenHeader, guestLogsPath, type GuestInit } from "@roost/contract";
import { StartRequestSchema } from "@roost/contract/gen/process/process_pb.js";
import type { Logger } from "@roost/kit";

import { clockToleranceMs } from "./init-route.ts";
import type { InitState } from "./init-state.ts";

/** How often a template's first requests are made: from then on the interpreter's caches of these functions are filled. */
const templateRounds = 12;
/** The second time costs a third of the first, and the third time no less than the second. */
const vmRounds = 2;
/** The clock is only set when it is wrong. In `ms`. */
const wrongByMs = 2 * clockToleranceMs;
/** Longest one request may take in `ms`, in a guest that is slow for the first time. */
const requestTimeoutMs = 20_000;

export interface WarmUpParts {
  /** Port of this agent */
  readonly port: () => number;
  readonly state: InitState;
  /** User that requests act as when they name none */
  readonly userName: () => string;
  readonly log: Logger;
}

/**
 * Makes the requests that a sandbox's life begins with, to this agent itself, so that their code and files are in memory
 * when it matters. `template`: before a memory image is taken, when what counts is the guest's page cache and heap, and
 * time does not. `vm`: in a VM that was restored and now waits; what counts there is that a VMM without hardware
 * virtualization has translated the code, which no image can hold.
 *
 * While it lasts the agent has a token, an environment and ids of its own making: the requests should be in everything like
 * real ones. Then it has back what it had, and no process is left. Host name, machine id and clock are the next /init's to set.
 */
export class WarmUp {
  readonly #parts: WarmUpParts;

  constructor(parts: WarmUpParts) {
    this.#parts = parts;
  }

  async run(kind: "template" | "vm"): Promise<void> {
    const restore = this.#parts.state.keep();
    try {
      if (kind === "vm") await this.#warmVm();
      else await this.#warmTemplate();
    } finally {
      restore();
    }
    collectGarbage(kind === "vm" ? "minor" : "major");
  }

  async #warmVm(): Promise<void> {
    for (let round = 0; round < vmRounds; round += 1) {
      await this.#init();
      await this.#start("/bin/sh", "-c", "/bin/true");
      await this.#logs();
    }
  }

  async #warmTemplate(): Promise<void> {
    for (let round = 0; round < templateRounds; round += 1) {
      await this.#init();
      await this.#start("true");
      await this.#start("/bin/sh", "-c", "/bin/true");
      await this.#request("/filesystem.Filesystem/Stat", "application/json", Buffer.from('{"path":"/"}'));
      await this.#logs();
    }
    await this.#start("/bin/bash", "-lc", "true");
  }

  async #start(cmd: string, ...args: string[]): Promise<void> {
    await this.#request("/process.Process/Start", "application/connect+proto", startBody(cmd, args));
  }

  /** The fields of the host's own, in their order: the engine remembers shapes of objects. */
  async #init(): Promise<void> {
    const init: GuestInit = {
      accessToken: this.#parts.state.accessToken ?? randomFillSync(Buffer.alloc(32)).toString("hex"),
      envVars: { WARM_UP: "1" },
      timestamp: new Date(Date.now() + wrongByMs).toISOString(),
      defaultUser: this.#parts.state.defaultUser ?? "",
      defaultWorkdir: this.#parts.state.defaultWorkdir ?? "",
      sandboxId: "warm-up",
      templateId: "warm-up",
      hostname: hostname(),
      machineId: "0".repeat(32),
      entropy: randomFillSync(Buffer.alloc(64)).toString("base64"),
    };
    await this.#request("/init", "application/json", Buffer.from(JSON.stringify(init)));
  }

  /** As the host asks before it saves or ends a sandbox, which waits for it. */
  async #logs(): Promise<void> {
    const head = [`GET ${guestLogsPath}?after=0&epoch= HTTP/1.1`, "host: guest", ...this.#token()];
    await this.#exchange(guestLogsPath, Buffer.from(`${head.join("\r\n")}\r\n\r\n`));
  }

  /**
   * As the control plane sends it, headers and all. Reads the answer to its end and does not look at it: where the guest has
   * no such program, there is none to load.
   */
  async #request(path: string, contentType: string, body: Uint8Array): Promise<void> {
    const head = [
      `POST ${path} HTTP/1.1`,
      "host: guest",
      `authorization: Basic ${Buffer.from(`${this.#parts.userName()}:`).toString("base64")}`,
      `content-type: ${contentType}`,
      "connect-protocol-version: 1",
      "connect-timeout-ms: 60000",
      "keepalive-ping-interval: 30",
      "transfer-encoding: chunked",
      ...this.#token(),
    ];
    const chunks = [`${head.join("\r\n")}\r\n\r\n${body.length.toString(16)}\r\n`, body, "\r\n0\r\n\r\n"];
    await this.#exchange(path, Buffer.concat(chunks.map((chunk) => (typeof chunk === "string" ? Buffer.from(chunk) : chunk))));
  }

  #token(): string[] {
    const token = this.#parts.state.accessToken;
    return token === undefined ? [] : [`${accessTokenHeader}: ${token}`];
  }

  async #exchange(path: string, request: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const socket = connect({ host: "127.0.0.1", port: this.#parts.port() });
      socket.setTimeout(requestTimeoutMs, () => socket.destroy(new Error(`${path} was not answered within ${requestTimeoutMs} ms`)));
      socket.on("error", reject);
      socket.on("close", () => resolve());
      let answer = "";
      socket.on("data", (bytes: Buffer) => {
        answer += bytes.toString("latin1");
        // Reset, not closed: nothing of the connection must stay behind, also not a minute of TIME_WAIT in every VM.
        if (isWhole(answer)) socket.resetAndDestroy();
      });
      socket.write(request);
    });
    this.#parts.log.debug({ path }, "warmed up");
  }
}

/**
 * Now rather than in the middle of a sandbox's first request, which in a restored VM it would make 50 ms longer. Does nothing where
 * Node.js was not started with --expose-gc.
 */
function collectGarbage(type: "minor" | "major"): void {
  const { gc } = globalThis as { readonly gc?: (options: { readonly type: "minor" | "major"; readonly execution: "sync" }) => void };
  gc?.({ type, execution: "sync" });
}

/** Whether an answer of this agent's server is there to its end. */
function isWhole(answer: string): boolean {
  const headEnd = answer.indexOf("\r\n\r\n");
  if (headEnd < 0) return false;
  const head = answer.slice(0, headEnd).toLowerCase();
  if (head.includes("transfer-encoding: chunked")) return answer.endsWith("\r\n0\r\n\r\n");
  const length = head.indexOf("content-length: ");
  return length < 0 || answer.length >= headEnd + 4 + Number.parseInt(head.slice(length + "content-length: ".length), 10);
}

/** One message in its envelope. As the default user, which is what most commands run as. */
function startBody(cmd: string, args: readonly string[]): Buffer {
  const message = toBinary(StartRequestSchema, create(StartRequestSchema, { process: { cmd, args: [...args] }, stdin: false }));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}
