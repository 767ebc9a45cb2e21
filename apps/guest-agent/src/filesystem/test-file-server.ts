import { mkdtemp, mkdir, rm, writeFile } from "node:fs/promises";
import { createServer, request as httpRequest, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, type Client } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { Cleanup, silentLogger } from "@roost/kit";

import { expandPath, type GuestContext } from "../context.ts";
import { handleFiles } from "../files/files-routes.ts";
import { Users } from "../users/users.ts";
import { createFilesystemService } from "./filesystem-service.ts";
import { Watchers } from "./watchers.ts";

export interface TestAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface TestFileServer extends AsyncDisposable {
  readonly url: string;
  /** home of the acting user, empty at the start */
  readonly home: string;
  readonly client: Client<typeof Filesystem>;
  readonly context: GuestContext;
  readonly watchers: Watchers;
  /** Sets or takes away the sandbox's access token. */
  token: string | undefined;
  call(method: string, target: string, options?: { headers?: Record<string, string>; body?: Buffer | string }): Promise<TestAnswer>;
}

/** The file half of the guest agent behind a server of its own; its users are this process's, under other names. */
export async function startFileServer(
  options: { uid?: number; gid?: number; binary?: boolean; folder?: string; queuedEventsMax?: number } = {},
): Promise<TestFileServer> {
  const cleanup = new Cleanup();
  const folder = await mkdtemp(join(options.folder ?? tmpdir(), "roost-files-"));
  cleanup.defer("remove the test folder", async () => rm(folder, { recursive: true, force: true }));
  const home = join(folder, "home");
  const etcFolder = join(folder, "etc");
  await mkdir(home);
  await mkdir(etcFolder);
  const [uid, gid] = [options.uid ?? process.getuid?.() ?? 0, options.gid ?? process.getgid?.() ?? 0];
  await writeFile(join(etcFolder, "passwd"), `tester:x:${uid}:${gid}::${home}:/bin/sh\nother:x:4242:4243::${folder}:/bin/sh\n`);
  await writeFile(join(etcFolder, "group"), `testers:x:${gid}:\nothers:x:4243:\n`);

  let token: string | undefined;
  const context: GuestContext = {
    log: silentLogger,
    users: new Users({ etcFolder, defaultName: () => "tester" }),
    accessToken: () => token,
    mayPass: (given) => token === undefined || given === token,
    expandPath,
    agentDiskFolder: "/nonexistent",
  };
  const watchers = new Watchers(silentLogger, options.queuedEventsMax === undefined ? {} : { queuedEventsMax: options.queuedEventsMax });
  cleanup.defer("end watchers", () => watchers.close());
  const connect = connectNodeAdapter({ routes: (router) => router.service(Filesystem, createFilesystemService(context, watchers)) });
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://guest");
    if (/^\/files(?:\/|$)/.test(url.pathname)) void handleFiles(request, response, url, context);
    else connect(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanup.defer("close the test server", async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = createClient(
    Filesystem,
    createConnectTransport({ baseUrl: url, httpVersion: "1.1", useBinaryFormat: options.binary ?? false }),
  );
  return {
    url,
    home,
    client,
    context,
    watchers,
    get token() {
      return token;
    },
    set token(value) {
      token = value;
    },
    call: async (method, target, callOptions = {}) => call(url, method, target, callOptions),
    [Symbol.asyncDispose]: async () => cleanup.run(),
  };
}

async function call(
  base: string,
  method: string,
  target: string,
  options: { headers?: Record<string, string>; body?: Buffer | string },
): Promise<TestAnswer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(base + target, { method, headers: options.headers ?? {}, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(options.body);
  });
}

/** A multipart body as browsers write it. */
export function multipart(parts: readonly { readonly name: string; readonly filename?: string; readonly content: Buffer | string }[]): {
  readonly headers: { readonly "content-type": string };
  readonly body: Buffer;
} {
  const boundary = "roost-test-boundary";
  const chunks: Buffer[] = [];
  for (const part of parts) {
    const filename = part.filename === undefined ? "" : `; filename="${part.filename}"`;
    chunks.push(Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="${part.name}"${filename}\r\n\r\n`));
    chunks.push(Buffer.from(part.content), Buffer.from("\r\n"));
  }
  chunks.push(Buffer.from(`--${boundary}--\r\n`));
  return { headers: { "content-type": `multipart/form-data; boundary=${boundary}` }, body: Buffer.concat(chunks) };
}
