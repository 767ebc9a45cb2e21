import { spawn, type ChildProcess } from "node:child_process";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { pipeline } from "node:stream/promises";

import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { EventType, Filesystem, FileType, type WatchDirResponseSchema } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import {
  Process,
  Signal,
  type ConnectRequest,
  type ProcessConfig,
  type ProcessSelector,
  type StartRequest,
} from "@roost/contract/gen/process/process_pb.js";
import { accessTokenHeader } from "@roost/contract";

/** Ways in which a guest can be bad; each is looked at anew with every request. */
export interface Misbehaviour {
  /** Sent instead of a process's events. */
  start?: (() => AsyncIterable<object>) | undefined;
  /** Answers a `/files` request in place of the real answer. */
  files?: ((request: IncomingMessage, response: ServerResponse) => void) | undefined;
}

/** A process of this machine that runs in place of one that was asked for; undefined: the one that was asked for. */
export type Substitute = (
  asked: ProcessConfig,
  user: string | undefined,
) => { readonly cmd: string; readonly args: readonly string[] } | undefined;

interface Running {
  readonly child: ChildProcess;
  readonly tag: string | undefined;
  readonly cmd: string;
  readonly args: readonly string[];
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
}

/**
 * A guest agent without a guest: real processes of this machine and files in a folder of its own, behind the guest
 * protocols. It is as small as the control plane's tests allow; how the real one behaves is tested with the real one.
 */
export class FakeGuest {
  readonly misbehaviour: Misbehaviour = {};
  /** Access token it wants; undefined takes any. */
  accessToken: string | undefined;
  /** What runs in place of what would look for things that only a real guest has */
  substitute: Substitute | undefined;
  /** Pids of processes that somebody asked to follow, in order */
  readonly followed: number[] = [];
  /** Told of each request */
  onRequest: ((headers: IncomingHttpHeaders) => void) | undefined;
  readonly #running = new Map<number, Running>();
  readonly #server: Server;
  #root = "";

  constructor() {
    const connect = connectNodeAdapter({ routes: (router) => this.#addRoutes(router) });
    this.#server = createServer((request, response) => {
      this.onRequest?.(request.headers);
      if (this.accessToken !== undefined && request.headers[accessTokenHeader] !== this.accessToken) {
        return void response.writeHead(401).end('{"code":401,"message":"access token"}');
      }
      if (request.url?.startsWith("/files?") !== true) return connect(request, response);
      if (this.misbehaviour.files !== undefined) return this.misbehaviour.files(request, response);
      this.#serveFiles(request, response).catch(() => response.destroy());
    });
  }

  async listen(): Promise<number> {
    this.#root = await mkdtemp(join(tmpdir(), "roost-fake-guest-"));
    await new Promise<void>((resolve) => {
      this.#server.listen(0, "127.0.0.1", resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.killAll();
    this.#server.closeAllConnections();
    await new Promise((resolve) => {
      this.#server.close(resolve);
    });
    await rm(this.#root, { recursive: true, force: true });
  }

  /** Ends everything that runs, as the end of a VM does. */
  killAll(): void {
    for (const pid of this.#running.keys()) this.#kill(pid, "SIGKILL");
  }

  get runningPids(): number[] {
    return [...this.#running.keys()];
  }

  /** Where a path of the guest is on this machine. */
  pathOf(path: string): string {
    return join(this.#root, normalize(`/${path}`));
  }

  #kill(pid: number, signal: NodeJS.Signals): void {
    try {
      process.kill(-pid, signal);
    } catch {
      // ended already
    }
  }

  #find(selector: ProcessSelector | undefined): [number, Running] {
    const wanted = selector?.selector;
    for (const [pid, running] of this.#running) {
      if (wanted?.case === "pid" ? wanted.value === pid : wanted?.value !== undefined && wanted.value === running.tag)
        return [pid, running];
    }
    throw new ConnectError("no such process", Code.NotFound);
  }

  #addRoutes(router: ConnectRouter): void {
    router.service(Process, {
      list: () => ({
        processes: [...this.#running].map(([pid, running]) => ({
          pid,
          config: { cmd: running.cmd, args: [...running.args] },
          ...(running.tag === undefined ? {} : { tag: running.tag }),
        })),
      }),
      start: (request, { requestHeader }) => this.#start(request, requestHeader),
      connect: (request) => this.#connect(request),
      sendSignal: (request) => {
        this.#kill(this.#find(request.process)[0], request.signal === Signal.SIGKILL ? "SIGKILL" : "SIGTERM");
        return {};
      },
      closeStdin: (request) => {
        this.#find(request.process)[1].child.stdin?.end();
        return {};
      },
      sendInput: () => ({}),
      update: () => ({}),
      streamInput: async (messages) => {
        let child: ChildProcess | undefined;
        for await (const { event } of messages) {
          if (event.case === "start") child = this.#find(event.value.process)[1].child;
          else if (event.case === "data") {
            const stdin = child?.stdin;
            if (stdin?.writable !== true) throw new ConnectError("it takes no input", Code.FailedPrecondition);
            const data = event.value.input?.input.value ?? new Uint8Array();
            await new Promise((resolve) => stdin.write(data, resolve));
          }
        }
        return {};
      },
    });
    router.service(Filesystem, {
      stat: async ({ path }) => ({ entry: await this.#entry(path) }),
      makeDir: async ({ path }) => {
        if ((await mkdir(this.pathOf(path), { recursive: true })) === undefined)
          throw new ConnectError(`${path} exists`, Code.AlreadyExists);
        return { entry: await this.#entry(path) };
      },
      listDir: async ({ path }) => {
        const names = await readdir(this.pathOf(path)).catch(() => {
          throw new ConnectError(`${path}: does not exist`, Code.NotFound);
        });
        return { entries: await Promise.all(names.sort().map((name) => this.#entry(join(path, name)))) };
      },
      move: async ({ source, destination }) => {
        await rename(this.pathOf(source), this.pathOf(destination));
        return { entry: await this.#entry(destination) };
      },
      remove: async ({ path }) => {
        await rm(this.pathOf(path), { recursive: true, force: true });
        return {};
      },
      watchDir: () => this.#watch(),
    });
  }

  async *#start(request: StartRequest, headers: Headers) {
    if (this.misbehaviour.start !== undefined) return yield* this.misbehaviour.start() as AsyncGenerator<never>;
    const asked = request.process;
    if (asked === undefined) throw new ConnectError("no process", Code.InvalidArgument);
    const config = { ...asked, ...this.substitute?.(asked, userOf(headers)) };
    if ([...this.#running.values()].some((running) => request.tag !== undefined && running.tag === request.tag)) {
      throw new ConnectError("the tag is taken", Code.AlreadyExists);
    }
    const child = spawn(config.cmd, [...config.args], {
      cwd: this.#root,
      env: { PATH: process.env["PATH"], ...config.envs },
      detached: true,
      stdio: [request.stdin === false ? "ignore" : "pipe", "pipe", "pipe"],
    });
    await new Promise((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", () => reject(new ConnectError(`${config.cmd}: command not found`, Code.NotFound)));
    });
    const pid = child.pid ?? 0;
    child.stdin?.on("error", () => undefined);
    const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
      child.once("close", (code, signal) => resolve({ code, signal }));
    });
    this.#running.set(pid, { child, tag: request.tag, cmd: config.cmd, args: config.args, ended });
    void ended.then(() => this.#running.delete(pid));
    yield { event: { event: { case: "start" as const, value: { pid } } } };
    yield* this.#follow(child, ended);
  }

  async *#connect(request: ConnectRequest) {
    const [pid, running] = this.#find(request.process);
    this.followed.push(pid);
    yield { event: { event: { case: "start" as const, value: { pid } } } };
    yield* this.#follow(running.child, running.ended);
  }

  async *#watch(): AsyncGenerator<MessageInitShape<typeof WatchDirResponseSchema>> {
    yield { event: { case: "start" as const, value: {} } };
    yield { event: { case: "filesystem" as const, value: { name: "seen", type: EventType.CREATE } } };
    await new Promise(() => undefined);
  }

  async *#follow(child: ChildProcess, ended: Running["ended"]) {
    const pieces: { readonly case: "stdout" | "stderr"; readonly value: Uint8Array }[] = [];
    let isOver = false;
    let wake = () => {};
    const sources = [child.stdout, child.stderr];
    for (const [index, source] of sources.entries()) {
      source?.on("data", (value: Buffer) => {
        pieces.push({ case: index === 0 ? "stdout" : "stderr", value });
        if (pieces.length > 16) for (const each of sources) each?.pause();
        wake();
      });
    }
    void ended.then(() => {
      isOver = true;
      wake();
    });
    for (;;) {
      const output = pieces.shift();
      if (output !== undefined) {
        if (pieces.length < 4) for (const each of sources) each?.resume();
        yield { event: { event: { case: "data" as const, value: { output } } } };
      } else if (isOver) break;
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
    const { code, signal } = await ended;
    const status = signal === null ? `exit status ${code}` : signal === "SIGKILL" ? "signal: killed" : "signal: terminated";
    yield { event: { event: { case: "end" as const, value: { exitCode: code ?? -1, exited: signal === null, status } } } };
  }

  async #entry(path: string) {
    const found = await stat(this.pathOf(path)).catch(() => {
      throw new ConnectError(`${path}: does not exist`, Code.NotFound);
    });
    return {
      name: path.slice(path.lastIndexOf("/") + 1),
      path,
      type: found.isDirectory() ? FileType.DIRECTORY : FileType.FILE,
      size: BigInt(found.size),
      mode: found.mode & 0o7777,
      permissions: "-rw-r--r--",
      owner: "user",
      group: "user",
      modifiedTime: { seconds: BigInt(Math.trunc(found.mtimeMs / 1_000)), nanos: 0 },
    };
  }

  async #serveFiles(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const query = new URL(request.url ?? "", "http://guest").searchParams;
    const path = this.pathOf(query.get("path") ?? "");
    const fail = (status: number, message: string) => void response.writeHead(status).end(JSON.stringify({ code: status, message }));
    if (query.get("username") === "nobody-here") return fail(401, "invalid username: 'nobody-here'");
    if (request.method === "POST") {
      await mkdir(dirname(path), { recursive: true });
      await pipeline(request, createWriteStream(`${path}.part`));
      await rename(`${path}.part`, path);
      return void response.writeHead(200).end("[]");
    }
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) return fail(404, `${query.get("path")}: no such file`);
    if (found.isDirectory()) return fail(400, `${query.get("path")}: is a directory`);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const start = Number(range?.[1] ?? 0);
    const end = Math.min(Number(range?.[2] ?? found.size - 1), found.size - 1);
    if (start > end && found.size > 0) return fail(416, "range outside the file");
    response.writeHead(range === null ? 200 : 206, {
      "content-length": found.size === 0 ? 0 : end - start + 1,
      etag: `"${found.mtimeMs}"`,
      "content-type": "text/html",
      ...(range === null ? {} : { "content-range": `bytes ${start}-${end}/${found.size}` }),
    });
    if (request.method === "HEAD" || found.size === 0) return void response.end();
    await pipeline(createReadStream(path, { start, end }), response);
  }
}

/** Whom a request acts as. */
function userOf(headers: Headers): string | undefined {
  const basic = /^Basic (.*)$/.exec(headers.get("authorization") ?? "")?.[1];
  return basic === undefined ? undefined : Buffer.from(basic, "base64").toString("utf8").replace(/:$/, "");
}
