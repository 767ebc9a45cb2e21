import type { Duplex } from "node:stream";

import type { SandboxHandle } from "@roost/sdk";
import ssh2, { type ServerChannel, type TcpipRequestInfo } from "ssh2";

import { defaultUser } from "./ssh-files.ts";
import { SshSession } from "./ssh-session.ts";

/** Ciphers in Node's own OpenSSL with hardware behind them; the library's ChaCha20 is slower. */
const ciphers = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"] as const;

export interface ServeSshOptions {
  readonly sandbox: SandboxHandle;
  readonly hostKey: string;
  /** Wins over the name that the client gives */
  readonly user: string | undefined;
}

/**
 * The server's side of one SSH connection, for a client that started this process: sessions, SFTP and forwarded ports become calls of the API.
 * Nobody is asked for a key: the other end of the pipe is the user's own process, and what may be done is what this process's API key may.
 */
export async function serveSsh(socket: Duplex, { sandbox, hostKey, user }: ServeSshOptions): Promise<void> {
  const gone = new AbortController();
  const server = new ssh2.Server({ hostKeys: [hostKey], ident: "Roost", algorithms: { cipher: [...ciphers] } }, (client) => {
    let chosen = user;
    client.on("authentication", (attempt) => {
      if (user === undefined && attempt.username !== defaultUser && attempt.username !== "") chosen = attempt.username;
      attempt.accept();
    });
    client.on("session", (accept) => void new SshSession(accept(), { sandbox, user: chosen, gone: gone.signal }));
    client.on("tcpip", (accept, reject, info) => void forward(sandbox, info, accept, reject, gone.signal));
    client.on("error", () => undefined); // a broken connection; its close follows
  });
  const closed = new Promise<void>((resolve) => socket.once("close", resolve));
  socket.once("end", () => socket.destroy()); // it was killed: nobody reads what is left
  server.injectSocket(socket as never);
  await closed;
  gone.abort(new Error("the SSH client is gone"));
}

/** `ssh -L` and `-D`, and what editors do: a connection to a port of the sandbox. Elsewhere this program has no way. */
async function forward(
  sandbox: SandboxHandle,
  { destIP, destPort }: TcpipRequestInfo,
  accept: () => ServerChannel,
  reject: () => void,
  signal: AbortSignal,
): Promise<void> {
  if (!isSandboxItself(destIP, sandbox.id)) return reject();
  let tunnel;
  try {
    tunnel = await sandbox.tunnel(destPort, { signal });
  } catch {
    return reject();
  }
  const channel = accept();
  // The library closes a channel whose own end has ended, so that is kept back until the client's has, too: only the end is told.
  tunnel.pipe(channel, { end: false });
  channel.pipe(tunnel);
  const finish = () => {
    if (tunnel.readableEnded && tunnel.writableFinished) channel.end();
  };
  tunnel.once("end", () => {
    channel.eof();
    finish();
  });
  tunnel.once("finish", finish);
  tunnel.on("error", () => channel.close());
  channel.on("error", () => tunnel.destroy());
  channel.once("close", () => {
    if (!tunnel.writableEnded || !tunnel.readableEnded) tunnel.destroy();
  });
}

function isSandboxItself(host: string, id: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, "");
  return ["", "localhost", "::1", "0.0.0.0", "::", id, `${id}.roost`].includes(name) || /^127(\.\d{1,3}){3}$/.test(name);
}
