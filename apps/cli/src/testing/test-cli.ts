import { EventEmitter } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";

import { FakeApi } from "@roost/sdk/testing";

import type { Io } from "../io.ts";
import { runCli } from "../run-cli.ts";

export interface CliResult {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface CliCall {
  readonly input?: Buffer | string | Readable;
  readonly environment?: Record<string, string>;
  /** Stands for the signals of the process. */
  readonly signals?: EventEmitter;
  readonly onStdout?: (text: string) => void;
}

/** The command line in this process, against the SDK's fake API and a folder of its own. */
export class TestCli implements AsyncDisposable {
  readonly api: FakeApi;
  readonly folder: string;

  private constructor(api: FakeApi, folder: string) {
    this.api = api;
    this.folder = folder;
  }

  static async start(): Promise<TestCli> {
    return new TestCli(await FakeApi.start(), await mkdtemp(join(tmpdir(), "roost-cli-test-")));
  }

  get environment(): Record<string, string> {
    return { ROOST_URL: this.api.url, ROOST_API_KEY: this.api.apiKey, ROOST_DIR: this.folder };
  }

  async run(args: readonly string[], call: CliCall = {}): Promise<CliResult> {
    const { input = "" } = call;
    const stdout = new Collected(call.onStdout);
    const stderr = new Collected();
    const stdin = input instanceof Readable ? input : Readable.from([Buffer.from(input)], { objectMode: false });
    const io: Io = {
      stdin,
      stdout: stdout.stream,
      stderr: stderr.stream,
      environment: { ...this.environment, ...call.environment },
      signals: call.signals ?? new EventEmitter(),
      cwd: this.folder,
    };
    const exitCode = await runCli(args, io, () => {
      throw new Error("the command was forced to end");
    });
    return { exitCode, stdout: stdout.bytes, stderr: stderr.bytes.toString("utf8") };
  }

  /** A sandbox of the fake, and its home folder on this machine. */
  async sandbox(): Promise<{ readonly id: string; readonly home: string }> {
    const { record, home } = await this.api.sandboxes.create();
    return { id: record.id, home };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.api[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true });
  }
}

class Collected {
  readonly stream = new PassThrough();
  readonly #chunks: Buffer[] = [];

  constructor(onText?: (text: string) => void) {
    this.stream.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      onText?.(chunk.toString("utf8"));
    });
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}
