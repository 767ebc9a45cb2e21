import { request } from "node:http";
import type { Duplex } from "node:stream";

export interface TunnelAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/** One HTTP request through a tunnel. */
export async function requestThrough(
  tunnel: Duplex,
  asked: { readonly method?: string; readonly path: string; readonly headers?: Record<string, string>; readonly body?: Buffer },
): Promise<TunnelAnswer> {
  return new Promise((resolve, reject) => {
    const call = request({
      method: asked.method ?? "GET",
      path: asked.path,
      host: "guest",
      headers: { connection: "close", ...asked.headers, "content-length": asked.body?.length ?? 0 },
      createConnection: () => tunnel,
    });
    call.on("error", reject);
    call.on("response", (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }));
    });
    call.end(asked.body);
  });
}

/** Runs a shell command in a guest, as root unless told otherwise, through the guest protocol's JSON form; resolves with its output when it has ended. */
export async function shellThrough(
  tunnel: Duplex,
  accessToken: string,
  command: string,
  options: { readonly asDefaultUser?: boolean; readonly shell?: readonly [string, ...string[]] } = {},
): Promise<string> {
  const [cmd, ...args] = options.shell ?? ["/bin/sh"];
  const message = Buffer.from(JSON.stringify({ process: { cmd, args: [...args, "-c", command] }, stdin: false }));
  const envelope = Buffer.alloc(5);
  envelope.writeUInt32BE(message.length, 1);
  const { status, body } = await requestThrough(tunnel, {
    method: "POST",
    path: "/process.Process/Start",
    headers: {
      "content-type": "application/connect+json",
      "connect-protocol-version": "1",
      "x-access-token": accessToken,
      ...(options.asDefaultUser === true ? {} : { authorization: `Basic ${Buffer.from("root:").toString("base64")}` }),
    },
    body: Buffer.concat([envelope, message]),
  });
  if (status !== 200) throw new Error(`the guest agent answered ${status}: ${body.toString().slice(0, 300)}`);
  let output = "";
  for (let offset = 0; offset + 5 <= body.length;) {
    const length = body.readUInt32BE(offset + 1);
    const frame = JSON.parse(body.subarray(offset + 5, offset + 5 + length).toString()) as {
      event?: { data?: { stdout?: string; stderr?: string } };
      error?: { message?: string };
    };
    if (frame.error !== undefined) throw new Error(frame.error.message);
    const data = frame.event?.data;
    output += Buffer.from(data?.stdout ?? data?.stderr ?? "", "base64").toString();
    offset += 5 + length;
  }
  return output;
}
