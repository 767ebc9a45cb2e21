import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** Longest a raw exchange may take in `ms`. */
const exchangeTimeoutMs = 30_000;

/** Where raw clients connect to. */
export interface RawTarget {
  readonly host: string;
  readonly port: number;
}

export function rawTarget(url: string): RawTarget {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port) };
}

/** A TCP connection that nobody looks after: errors are expected and ignored. */
export async function openRaw(target: RawTarget): Promise<Socket> {
  const socket = connect(target);
  socket.on("error", () => undefined); // being cut is one of the good answers
  await once(socket, "connect", { signal: AbortSignal.timeout(exchangeTimeoutMs) });
  return socket;
}

/** Sends bytes and gives what comes back until `isEnough` or the end of the connection; fails when neither comes. */
export async function exchange(
  target: RawTarget,
  bytes: string | Buffer,
  isEnough: (answer: string) => boolean = hasWholeAnswer,
): Promise<string> {
  const socket = await openRaw(target);
  try {
    socket.write(bytes);
    return await new Promise<string>((resolve, reject) => {
      let answer = "";
      const timer = setTimeout(() => reject(new Error(`no end after ${JSON.stringify(answer.slice(0, 300))}`)), exchangeTimeoutMs);
      const finish = () => {
        clearTimeout(timer);
        resolve(answer);
      };
      socket.setEncoding("latin1").on("data", (chunk: string) => {
        answer += chunk;
        if (isEnough(answer)) finish();
      });
      socket.on("close", finish);
    });
  } finally {
    socket.destroy();
  }
}

/** Head and body of an HTTP answer are there. */
function hasWholeAnswer(answer: string): boolean {
  const end = answer.indexOf("\r\n\r\n");
  if (end === -1) return false;
  const head = answer.slice(0, end);
  const body = answer.slice(end + 4);
  const length = /^content-length: *(\d+)/im.exec(head)?.[1];
  if (length !== undefined) return body.length >= Number(length);
  return /^transfer-encoding: *chunked/im.test(head) ? body.endsWith("0\r\n\r\n") : /^HTTP\/1\.1 (204|304)/.test(head);
}

export function statusOf(answer: string): number {
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? Number.NaN);
}

/** The bytes of a request; `length: false` leaves Content-Length out. */
export function requestBytes(method: string, path: string, headers: Readonly<Record<string, string>>, body: string | Buffer = ""): Buffer {
  const length =
    body.length > 0 && !("transfer-encoding" in headers) && !("content-length" in headers)
      ? { "content-length": String(Buffer.byteLength(body)) }
      : {};
  const lines = Object.entries({ host: "localhost", ...headers, ...length }).map(([name, value]) => `${name}: ${value}`);
  return Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`, "latin1"), Buffer.from(body)]);
}

/** An envelope of the Connect protocol: flags, length, message. A `length` that is not the message's is a lie on purpose. */
export function envelope(
  message: string | Buffer,
  { flags = 0, length }: { readonly flags?: number; readonly length?: number } = {},
): Buffer {
  const bytes = Buffer.from(message);
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(length ?? bytes.length, 1);
  return Buffer.concat([head, bytes]);
}
