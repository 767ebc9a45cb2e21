/** What a proxy does. `early`: says something of its own right behind its answer, in the same segment. `echo`: answers with what it was asked. */
export type ProxyKind = "open" | "password" | "early" | "refuse" | "hang" | "nonsense" | "echo";

export interface ProxyListener {
  readonly protocol: "socks5" | "http";
  readonly kind: ProxyKind;
  readonly port: number;
}

export interface ProxyServersOptions {
  readonly listeners: readonly ProxyListener[];
  /** Where it listens, and where its connections come from */
  readonly address: string;
  /** What it resolves names to */
  readonly names: Readonly<Record<string, string>>;
}

/** What proxies of kind `password` want. */
export const proxyCredentials = { username: "someone", password: "open-sesame" } as const;

/** What proxies of kind `early` say. */
export const earlyText = "early ";

/**
 * A Node program that is several SOCKS5 and HTTP CONNECT proxies, for a test to run where it likes (in a namespace): prints `ready`, then `<port> <destination>` for
 * each connection that it is asked for, as it was asked. Speaks the protocols in the way of the RFCs, byte for byte, and shares no code with what is tested.
 */
export function proxyServersScript(options: ProxyServersOptions): string {
  return `
const net = require("node:net");
const { listeners, address, names } = ${JSON.stringify(options)}, { username, password } = ${JSON.stringify(proxyCredentials)};
let missing = listeners.length;

function carry(client, listener, host, port, granted, refused) {
  console.log(listener.port + " " + host + ":" + port);
  if (listener.kind === "refuse") return client.end(refused);
  const target = net.isIPv4(host) ? host : names[host];
  if (target === undefined) return client.end(refused);
  const server = net.connect({ host: target, port, localAddress: address, allowHalfOpen: true }, () => {
    client.write(listener.kind === "early" ? Buffer.concat([Buffer.from(granted), Buffer.from("${earlyText}")]) : granted);
    client.pipe(server).pipe(client);
    client.resume();
  });
  for (const [one, other] of [[client, server], [server, client]]) one.on("error", () => other.destroy()).on("close", () => setTimeout(() => other.destroy(), 1000));
}

/** Calls back with \`count\` bytes and what follows them. */
function take(socket, buffered, count, then) {
  if (buffered.length >= count) return then(buffered.subarray(0, count), buffered.subarray(count));
  socket.once("data", (data) => take(socket, Buffer.concat([buffered, data]), count, then));
}

function socks(client, listener) {
  const ask = (rest) => take(client, rest, 4, (head, rest) => {
    const finish = (host, rest) => take(client, rest, 2, (port, rest) => {
      client.pause();
      if (rest.length > 0) client.unshift(rest);
      const answer = (code) => Buffer.from([5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
      carry(client, listener, host, port.readUInt16BE(), answer(0), answer(5));
    });
    if (head[1] !== 1) return client.end(Buffer.from([5, 7, 0, 1, 0, 0, 0, 0, 0, 0]));
    if (head[3] === 1) take(client, rest, 4, (ip, rest) => finish([...ip].join("."), rest));
    else take(client, rest, 1, ([length], rest) => take(client, rest, length, (name, rest) => finish(name.toString("latin1"), rest)));
  });
  const login = (rest) => take(client, rest, 2, ([, length], rest) => take(client, rest, length + 1, (user, rest) => take(client, rest, user[length], (pass, rest) => {
    const isRight = user.subarray(0, length).toString() === username && pass.toString() === password;
    client.write(Buffer.from([1, isRight ? 0 : 1]));
    if (isRight) ask(rest);
    else client.end();
  })));
  take(client, Buffer.alloc(0), 2, ([version, count], rest) => {
    if (version !== 5) return client.end();
    take(client, rest, count, (methods, rest) => {
      const method = listener.kind === "password" ? 2 : 0;
      if (!methods.includes(method)) return client.end(Buffer.from([5, 255]));
      client.write(Buffer.from([5, method]));
      (method === 2 ? login : ask)(rest);
    });
  });
}

function http(client, listener) {
  const read = (buffered) => client.once("data", (data) => {
    const all = Buffer.concat([buffered, data]), end = all.indexOf("\\r\\n\\r\\n");
    if (end < 0) return read(all);
    client.pause();
    if (all.length > end + 4) client.unshift(all.subarray(end + 4));
    const head = all.toString("latin1", 0, end);
    if (listener.kind === "echo") return client.end(head);
    const [, host, port] = /^CONNECT ([^ :]+):(\\d+) HTTP\\/1\\.1\\r\\n/.exec(head) ?? [];
    const basic = "Basic " + Buffer.from(username + ":" + password).toString("base64");
    const isKnown = listener.kind !== "password" || (/^proxy-authorization: (.*)$/im.exec(head) ?? [])[1] === basic;
    if (!isKnown) return client.end("HTTP/1.1 407 Proxy Authentication Required\\r\\ncontent-length: 0\\r\\n\\r\\n");
    carry(client, listener, host, Number(port), "HTTP/1.1 200 Connection established\\r\\n\\r\\n", "HTTP/1.1 502 Bad Gateway\\r\\n\\r\\n");
  });
  read(Buffer.alloc(0));
}

for (const listener of listeners) {
  net.createServer({ allowHalfOpen: true }, (client) => {
    client.on("error", () => undefined);
    if (listener.kind === "hang") return console.log(listener.port + " hangs");
    if (listener.kind === "nonsense") return client.end("\\0\\x01 nonsense \\r\\n\\r\\n");
    (listener.protocol === "socks5" ? socks : http)(client, listener);
  }).listen(listener.port, address, () => { if (--missing === 0) console.log("ready"); });
}
`;
}
