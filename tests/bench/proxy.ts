import { readFile } from "node:fs/promises";
import { Agent, request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { connect as connectHttp2, type ClientHttp2Session } from "node:http2";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";

import { must, poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { WebSocket } from "ws";

import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { rest, timed } from "./measure.ts";
import { row } from "./report.ts";

const app = 3000;
const payloadBytes = 20_000_000;
/** One block of addresses, so that it is known where the guest is: the last of the range that slots are in by default */
const block = { cidr: "198.19.248.0/21", base: [198, 19, 248, 0] } as const;

/** A page, a download and an echo of WebSocket messages below 126 bytes, in plain Node.js. */
const program = `
const { createServer } = require("node:http");
const { createHash } = require("node:crypto");
const block = Buffer.alloc(65536, 7);
const server = createServer((request, response) => {
  if (request.url !== "/payload") return response.end("ok");
  let left = ${payloadBytes};
  response.writeHead(200, { "content-length": left });
  const write = () => {
    while (left > 0) {
      const piece = block.subarray(0, Math.min(left, block.length));
      left -= piece.length;
      if (!response.write(piece)) return response.once("drain", write);
    }
    response.end();
  };
  write();
});
server.keepAliveTimeout = 600_000;
server.on("upgrade", (request, socket) => {
  const key = createHash("sha1").update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\\r\\nupgrade: websocket\\r\\nconnection: Upgrade\\r\\nsec-websocket-accept: " + key + "\\r\\n\\r\\n");
  socket.on("error", () => {});
  socket.on("data", (frame) => {
    const size = frame[1] & 127;
    const mask = frame.subarray(2, 6);
    const data = frame.subarray(6, 6 + size).map((byte, index) => byte ^ mask[index % 4]);
    if ((frame[0] & 15) === 8) return socket.end();
    socket.write(Buffer.concat([Buffer.from([frame[0], size]), data]));
  });
});
server.listen(${app}, "0.0.0.0");
`;

/** One way to the same port. */
interface Way {
  readonly get: (path: string) => Promise<number>;
  readonly close: () => void;
}

function byHttp1(options: RequestOptions): Way {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const get = async (path: string) => {
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      httpRequest({ ...options, path, agent }, resolve)
        .on("error", reject)
        .end();
    });
    if (answer.statusCode !== 200) throw new Error(`GET ${path} was answered with ${answer.statusCode}`);
    let bytes = 0;
    for await (const chunk of answer) bytes += (chunk as Buffer).length;
    return bytes;
  };
  return { get, close: () => agent.destroy() };
}

function byHttp2(session: ClientHttp2Session): Way {
  const get = async (path: string) => {
    const stream = session.request({ ":path": path });
    let bytes = 0;
    for await (const chunk of stream) bytes += (chunk as Buffer).length;
    return bytes;
  };
  return { get, close: () => session.destroy() };
}

/** Sends a message and waits for it to come back. */
async function echoOver(url: string, host: string): Promise<{ readonly echo: () => Promise<void>; readonly close: () => void }> {
  const socket = new WebSocket(url, { headers: { host }, perMessageDeflate: false });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const text = "x".repeat(64);
  const echo = async () => {
    const answered = new Promise((resolve) => socket.once("message", resolve));
    socket.send(text);
    if (String(await answered) !== text) throw new Error("the echo is another text");
  };
  return { echo, close: () => socket.terminate() };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Where the host reaches the guest: root of this machine may, too. */
async function addressOf(folder: string, sandbox: SandboxHandle): Promise<string> {
  const { slot } = JSON.parse(await readFile(join(folder, "sandboxes", sandbox.id, "sandbox.json"), "utf8")) as { slot: number };
  const last = slot * 2 + 1;
  const [a, b, c] = block.base;
  return `${a}.${b}.${c + (last >> 8)}.${last & 255}`;
}

/** The port proxy against a direct connection to the same port of the same guest; samples take turns. */
export const proxyGroup: Group = {
  name: "proxy",
  run: async (bench) => {
    const tlsPort = await freePort();
    await withMemoryImages({ ROOST_TLS: "true", ROOST_TLS_PORT: String(tlsPort), ROOST_SLOT_CIDR: block.cidr }, async (platform) => {
      const sandbox = await platform.sandbox({ timeout_sec: 0, ports: { access: "public" } });
      await sandbox.files.write("/home/user/app.cjs", program);
      await sandbox.execBackground("node", { args: ["/home/user/app.cjs"] });
      const host = `${app}-${sandbox.id}.sandbox.localhost`;
      const address = await addressOf(platform.folder, sandbox);
      const api = new URL(platform.client.url);
      const ca = await readFile(join(platform.folder, "tls", "authority.pem"), "utf8");
      const session = connectHttp2(`https://${host}`, {
        createConnection: () => connectTls({ host: "127.0.0.1", port: tlsPort, servername: host, ca, ALPNProtocols: ["h2"] }),
      });
      const ways = {
        direct: byHttp1({ host: address, port: app }),
        plain: byHttp1({ host: api.hostname, port: api.port, headers: { host } }),
        tls: byHttp2(session),
      };
      try {
        await poll(
          { what: "the guest's server", timeoutMs: 60_000 },
          async () => (await ways.direct.get("/").catch(() => 0)) === 2 || undefined,
        );
        await measureRequests(bench, ways);
        await measurePayloads(bench, ways);
        const echoes = [await echoOver(`ws://${address}:${app}/`, host), await echoOver(`ws://${api.host}/`, host)] as const;
        await measureEchoes(bench, echoes);
        for (const { close } of echoes) close();
      } finally {
        for (const { close } of Object.values(ways)) close();
      }
      await sandbox.delete();
    });
  },
};

type Ways = Readonly<Record<"direct" | "plain" | "tls", Way>>;

async function measureRequests(bench: Bench, { direct, plain, tls }: Ways): Promise<void> {
  for (const way of [direct, plain, tls]) for (let count = 20; count > 0; count -= 1) await way.get("/");
  await rest();
  const times = { direct: [] as number[], plain: [] as number[], tls: [] as number[] };
  for (let left = bench.samples(300); left > 0; left -= 1) {
    times.direct.push(await timed(() => direct.get("/")));
    times.plain.push(await timed(() => plain.get("/")));
    times.tls.push(await timed(() => tls.get("/")));
  }
  const baseline = { name: "the same port, directly", values: times.direct };
  bench.report(row("GET through the port proxy, kept connection", "ms", times.plain, { baseline }));
  bench.report(row("GET through the port proxy, TLS and HTTP/2", "ms", times.tls, { baseline }));
  const added = times.plain.map((time, index) => time - must(times.direct[index], "the direct sample beside it"));
  bench.report(row("added by the port proxy to a GET", "ms", added));
}

async function measurePayloads(bench: Bench, ways: Ways): Promise<void> {
  const rates: Record<keyof Ways, number[]> = { direct: [], plain: [], tls: [] };
  for (let left = bench.samples(8); left > 0; left -= 1) {
    for (const name of ["direct", "plain", "tls"] as const) {
      const ms = await timed(async () => {
        const bytes = await ways[name].get("/payload");
        if (bytes !== payloadBytes) throw new Error(`${bytes} of ${payloadBytes} bytes came`);
      });
      rates[name].push(payloadBytes / 1e6 / (ms / 1_000));
    }
  }
  const baseline = { name: "the same port, directly", values: rates.direct };
  bench.report(row("download of 20 MB through the port proxy", "MB/s", rates.plain, { baseline }));
  bench.report(row("the same, TLS and HTTP/2", "MB/s", rates.tls, { baseline }));
}

async function measureEchoes(bench: Bench, [direct, proxied]: readonly [Echo, Echo]): Promise<void> {
  for (const { echo } of [direct, proxied]) for (let count = 20; count > 0; count -= 1) await echo();
  await rest();
  const times: { direct: number[]; proxied: number[] } = { direct: [], proxied: [] };
  for (let left = bench.samples(300); left > 0; left -= 1) {
    times.direct.push(await timed(direct.echo));
    times.proxied.push(await timed(proxied.echo));
  }
  const baseline = { name: "the same port, directly", values: times.direct };
  bench.report(row("echo of a WebSocket message of 64 bytes", "ms", times.proxied, { baseline }));
}

type Echo = Awaited<ReturnType<typeof echoOver>>;
