import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";

import { Cleanup, poll, run } from "@roost/kit";

/** Addresses of the "world" that a test network has beyond the host: one that stands for the internet, and private ones. */
export const world = {
  internet: "11.77.0.1",
  /** Where port 80 echoes, as port 7 does everywhere */
  streams: "11.77.0.3",
  /** Where port 443 leads to 127.0.0.1:8443 out there: to a server of the test's own */
  secured: "11.77.0.5",
  /** Another one out there */
  elsewhere: "11.77.0.2",
  /** Where each request to port 80 is sent on to `elsewhere.test` */
  redirects: "11.77.0.4",
  /** Where proxies are, if a test begins some */
  proxies: "11.77.0.9",
  /** Where they are in a private network */
  privateProxies: "10.77.0.9",
  resolver: "10.77.0.53",
  denied: ["10.77.0.1", "172.16.77.1", "192.168.77.1", "100.64.77.1", "169.254.169.254", "198.18.255.77"],
  /** A public address of the host itself */
  host: "11.77.1.1",
} as const;

const worldLink = { host: "11.77.2.0", world: "11.77.2.1" } as const;

/** What the world's resolver knows; what else there is below `internet.test` is there, too. */
export const names = {
  "internet.test": [world.internet],
  "www.internet.test": [world.internet],
  "elsewhere.test": [world.elsewhere],
  "mixed.test": ["10.77.0.1", world.elsewhere],
  "api.secured.test": [world.secured],
  "other.secured.test": [world.secured],
  "wrong.secured.test": [world.secured],
  "private.test": ["10.77.0.1"],
  "host.test": [world.host],
  "stream.test": [world.streams],
  "proxies.test": [world.proxies],
  "redirect.internet.test": [world.redirects],
  "metadata.internet.test": ["169.254.169.254"],
  "loopback.internet.test": ["127.0.0.1"],
  "neighbour.internet.test": ["198.18.255.77"],
} as const;

/** Names that stand for others, and one that has another address each time it is asked for. */
const aliases = { "alias.internet.test": "alias2.internet.test", "alias2.internet.test": "private.test" } as const;
const rebinding = { "rebind.internet.test": [world.internet, "10.77.0.1"] } as const;

/**
 * Says "world" and who it sees, on TCP 80, 443 and 53; echoes on 7. Answers UDP 53 likewise, and questions of DNS from the names above. Prints each UDP datagram (a question of DNS as such), each name that it is asked for, and
 * what each TCP connection begins with.
 */
const serverScript = `
const net = require("node:net"), dgram = require("node:dgram"), names = ${JSON.stringify(names)};
const aliases = ${JSON.stringify(aliases)}, rebinding = ${JSON.stringify(rebinding)};
const seen = {};
function addressesOf(name) {
  const turns = rebinding[name];
  if (turns !== undefined) return [turns[(seen[name] = (seen[name] ?? -1) + 1) % turns.length]];
  return names[name] ?? names[aliases[aliases[name]]] ?? (name.endsWith(".internet.test") && aliases[name] === undefined ? names["internet.test"] : []);
}
const encoded = (name) => Buffer.concat([...name.split(".").map((label) => Buffer.from([label.length, ...Buffer.from(label)])), Buffer.from([0])]);
const record = (owner, type, data) => Buffer.concat([owner, Buffer.from([0, type, 0, 1, 0, 0, 0, 60, 0, data.length]), data]);
function answersTo(name) {
  const chain = [];
  let owner = Buffer.from([0xc0, 12]);
  for (let next = aliases[name]; next !== undefined; next = aliases[next]) { chain.push(record(owner, 5, encoded(next))); owner = encoded(next); }
  return [...chain, ...addressesOf(name).map((address) => record(owner, 1, Buffer.from(address.split(".").map(Number))))];
}
function resolve(message) {
  let name = [], at = 12;
  for (; message[at] > 0; at += message[at] + 1) name.push(message.toString("latin1", at + 1, at + 1 + message[at]));
  const asked = name.join(".").toLowerCase();
  console.log("asked " + asked);
  const records = answersTo(asked);
  const question = message.subarray(12, at + 5);
  const head = Buffer.from([message[0], message[1], 0x81, records.length > 0 ? 0x80 : 0x83, 0, 1, 0, records.length, 0, 0, 0, 0]);
  return Buffer.concat([head, question, ...records]);
}
for (const port of [7, 80, 443, 53]) net.createServer((socket) => { socket.on("error", () => {}); if (port === 443 && socket.localAddress === "${world.secured}") { const server = net.connect(8443, "127.0.0.1"); server.on("error", () => socket.destroy()); socket.on("close", () => server.destroy()); server.on("close", () => socket.destroy()); return void socket.pipe(server).pipe(socket); } socket.once("data", (data) => console.log("tcp " + socket.localAddress + " " + port + " " + JSON.stringify(data.toString("latin1").slice(0, 2000)))); if (port === 80 && socket.localAddress === "${world.redirects}") socket.end("HTTP/1.1 302 Found\\r\\nLocation: http://elsewhere.test/redirected\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"); else if (port === 7 || socket.localAddress === "${world.streams}") socket.pipe(socket); else socket.end("world sees " + socket.remoteAddress + "\\n"); }).listen(port, "0.0.0.0", () => console.log("ready"));
for (const address of ["${world.internet}", "${world.resolver}"]) {
  const udp = dgram.createSocket("udp4");
  udp.on("message", (message, from) => { console.log("udp " + (message.length < 12 ? message : "question") + " from " + from.address); udp.send(message.length < 12 ? "answer" : resolve(message), from.port, from.address); });
  udp.bind(53, address, () => console.log("ready"));
}
`;

/** Longer in `ms` than the tests of any file take that has a network, and shorter than a hook may take */
const turnTimeoutMs = 110_000;

/**
 * A small network around the host: a namespace that is the rest of the world, reached through a veth pair; and guests that are
 * namespaces behind a slot's tap (a veth pair in its place, with the guest's addresses), where programs can do what a guest could. The host
 * knows its addresses, so a machine has one of them at a time: another one waits.
 */
export class NetworkLab implements AsyncDisposable {
  readonly #cleanup = new Cleanup();
  readonly #name: string;
  #worldOutput = "";

  private constructor(name: string) {
    this.#name = name;
  }

  get worldNamespace(): string {
    return `${this.#name}-world`;
  }

  get worldOutput(): string {
    return this.#worldOutput;
  }

  static async create(name: string): Promise<NetworkLab> {
    const lab = new NetworkLab(name);
    try {
      await lab.#awaitTurn();
      await lab.#makeWorld();
      return lab;
    } catch (error) {
      await lab.#cleanup.run();
      throw error;
    }
  }

  /** A name that only one process can listen on, which is free again when that ends, however it does. */
  async #awaitTurn(): Promise<void> {
    await poll({ what: "the end of another test's network", timeoutMs: turnTimeoutMs, intervalMs: 50 }, async () => {
      const lock = createServer();
      const isOurs = await new Promise<boolean>((resolve) => {
        lock.once("error", () => resolve(false));
        lock.listen("\0roost-network-lab", () => resolve(true));
      });
      if (isOurs) this.#cleanup.defer("let another one have its turn", () => new Promise((resolve) => lock.close(resolve)));
      return isOurs ? true : undefined;
    });
  }

  async #makeWorld(): Promise<void> {
    const namespace = `${this.#name}-world`;
    const veth = `${this.#name}w`;
    this.#cleanup.defer("remove the world", () => run(["ip", "netns", "del", namespace]));
    // Before its namespace, which is taken down in the background: the routes are gone when the command returns
    this.#cleanup.defer("unplug the world", () => run(["ip", "link", "del", veth]));
    const addresses = [
      world.internet,
      world.elsewhere,
      world.streams,
      world.secured,
      world.redirects,
      world.proxies,
      world.privateProxies,
      world.resolver,
      ...world.denied,
    ];
    await run(["ip", "-batch", "-"], {
      input: [
        `netns add ${namespace}`,
        `link add ${veth} type veth peer name eth0 netns ${namespace}`,
        `link set ${veth} addrgenmode none`, // nothing of IPv6 of its own
        `addr add ${worldLink.host}/31 dev ${veth}`,
        `addr add ${world.host}/32 dev ${veth}`,
        `link set ${veth} up`,
      ].join("\n"),
    });
    await run(["ip", "-netns", namespace, "-batch", "-"], {
      input: [
        "link set lo up",
        `addr add ${worldLink.world}/31 dev eth0`,
        "link set eth0 up",
        ...addresses.map((address) => `addr add ${address}/32 dev lo`),
        `route add default via ${worldLink.host}`,
      ].join("\n"),
    });
    await run(["ip", "-batch", "-"], { input: addresses.map((address) => `route add ${address}/32 via ${worldLink.world}`).join("\n") });

    const server = spawn("nsenter", [`--net=/run/netns/${namespace}`, process.execPath, "-e", serverScript], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#cleanup.defer("end the world's server", async () => {
      const ended = once(server, "exit");
      server.kill("SIGKILL");
      await ended;
    });
    server.stdout.on("data", (chunk: Buffer) => {
      this.#worldOutput += chunk.toString();
    });
    await poll({ what: "the world's servers", timeoutMs: 20_000 }, () => (this.#worldOutput.split("ready").length > 6 ? true : undefined));
  }

  /** Replaces the tap of a slot by a cable into a namespace with the guest's addresses, and returns that guest. */
  async plugGuest(slotNamespace: string, index: number): Promise<LabGuest> {
    const namespace = `${this.#name}-guest${index}`;
    this.#cleanup.defer("remove a guest", () => run(["ip", "netns", "del", namespace]));
    await run(["ip", "netns", "add", namespace]);
    await run(["ip", "-netns", slotNamespace, "-batch", "-"], {
      input: [
        "link del tap0",
        `link add tap0 type veth peer name eth0 address 02:fc:00:00:00:05 netns ${namespace}`,
        "addr add 169.254.0.22/30 dev tap0",
        "link set tap0 up",
        "neigh replace 169.254.0.21 lladdr 02:fc:00:00:00:05 dev tap0 nud permanent",
      ].join("\n"),
    });
    await run(["ip", "-netns", namespace, "-batch", "-"], {
      input: ["link set lo up", "addr add 169.254.0.21/30 dev eth0", "link set eth0 up", "route add default via 169.254.0.22"].join("\n"),
    });
    return new LabGuest(namespace);
  }

  /** Runs a Node program out there, until the returned object is disposed of. */
  beginInWorld(script: string): LabProgram {
    return new LabProgram(`${this.#name}-world`, script);
  }

  async fromWorld(script: string): Promise<string> {
    return inNamespace(`${this.#name}-world`, script);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.run();
  }
}

export class LabGuest {
  readonly namespace: string;

  constructor(namespace: string) {
    this.namespace = namespace;
  }

  /** Runs a Node program in the guest; its output. */
  async run(script: string): Promise<string> {
    return inNamespace(this.namespace, script);
  }

  /** Runs one beside the test, until the returned object is disposed of. */
  begin(script: string): LabProgram {
    return new LabProgram(this.namespace, script);
  }

  /** What a server says first, or `refused: <code>` when there is no connection. */
  async fetch(address: string, port = 80): Promise<string> {
    return this.run(fetchScript(address, port));
  }

  /** Listens on a port, says who it sees, for as long as the returned object lives. */
  async serve(port: number): Promise<AsyncDisposable> {
    const script = `require("node:net").createServer((socket) => { socket.on("error", () => {}); socket.end("guest sees " + socket.remoteAddress + "\\n"); }).listen(${port}, "0.0.0.0", () => console.log("ready"))`;
    const child = spawn("nsenter", [`--net=/run/netns/${this.namespace}`, process.execPath, "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    return {
      [Symbol.asyncDispose]: async () => {
        const ended = once(child, "exit");
        child.kill("SIGKILL");
        await ended;
      },
    };
  }
}

export class LabProgram implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  #output = "";

  constructor(namespace: string, script: string) {
    const child = spawn("nsenter", [`--net=/run/netns/${namespace}`, process.execPath, "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    this.#ended = once(child, "exit");
    child.stdout.on("data", (chunk: Buffer) => {
      this.#output += chunk.toString();
    });
  }

  get output(): string {
    return this.#output;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

/** Long enough for a connection on an idle machine; a packet that is dropped never makes one. */
const connectTimeoutMs = 1_500;

function fetchScript(address: string, port: number): string {
  return `
const socket = require("node:net").connect(${port}, "${address}");
socket.setTimeout(${connectTimeoutMs}, () => socket.destroy(Object.assign(new Error(), { code: "TIMEOUT" })));
socket.on("data", (chunk) => process.stdout.write(chunk));
socket.on("error", (error) => console.log("refused: " + error.code));
`;
}

/** The same from the host, as this process's user or another. */
export async function fetchAsUser(address: string, port: number, uid: number): Promise<string> {
  return run(["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", process.execPath, "-e", fetchScript(address, port)]);
}

export async function fetchFromHost(address: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connect({ host: address, port });
    socket.setTimeout(connectTimeoutMs, () => socket.destroy(Object.assign(new Error("timeout"), { code: "TIMEOUT" })));
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on("error", (error: NodeJS.ErrnoException) => resolve(`refused: ${error.code}`));
    socket.on("end", () => resolve(text));
  });
}

async function inNamespace(namespace: string, script: string): Promise<string> {
  return run(["nsenter", `--net=/run/netns/${namespace}`, process.execPath, "-e", script]);
}
