import { request as httpRequest } from "node:http";
import type { Socket } from "node:net";

import { MiB, poll } from "@roost/kit";
import { beforeEach, describe, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import { ProxyLab, type LabConnection } from "../testing/proxy-lab.ts";

let lab: ProxyLab;
eachProxyLab((fresh) => {
  lab = fresh;
  lab.sandbox(id);
});

const head = (more = "", path = "/") =>
  `GET ${path} HTTP/1.1\r\nHost: ${app}-${id}.x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n${more}\r\n`;
/** A guest that switches to whatever is asked for; `serve` gets the connection after that. */
const agree = async (serve: (socket: Socket, head: Buffer) => void, more = "") => {
  const guest = await lab.serve(id, app, (_request, response) => response.writeHead(426).end("needs an upgrade"));
  guest.on("upgrade", (request, socket: Socket, first: Buffer) => {
    socket.on("error", () => undefined);
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${request.headers.upgrade}\r\n${more}\r\n`);
    serve(socket, first);
  });
};
const switched = async (connection: LabConnection) => until("the switch", () => connection.received.includes("\r\n\r\n"));
const bodyOf = (connection: LabConnection) => connection.received.slice(connection.received.indexOf("\r\n\r\n") + 4);

describe("WebSockets", () => {
  let server: WebSocketServer;
  beforeEach(async () => {
    server = new WebSocketServer({ noServer: true });
    const guest = await lab.serve(id, app, (_request, response) => response.end());
    guest.on("upgrade", (request, socket, first) => {
      server.handleUpgrade(request, socket, first, (webSocket) => {
        webSocket.on("message", (data, isBinary) => webSocket.send(data, { binary: isBinary }));
        webSocket.on("close", (code) => lab.results.push(`guest saw ${code}`));
      });
    });
  });
  const open = async (headers: Record<string, string> = {}) => {
    const socket = new WebSocket(`ws://127.0.0.1:${lab.port}/ws?x=1`, ["chat"], {
      headers: { "e2b-sandbox-id": id, "e2b-sandbox-port": String(app), ...headers },
    });
    await new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    return socket;
  };

  test("carry messages of any size both ways, and how they were closed", async () => {
    const socket = await open();
    expect(socket.protocol).toBe("chat");
    for (const message of [Buffer.from("x"), Buffer.alloc(0), Buffer.alloc(8 * MiB, 7)]) {
      const answer = new Promise<Buffer>((resolve) => {
        socket.once("message", resolve);
      });
      socket.send(message);
      expect(message.equals(await answer)).toBe(true);
    }
    const closed = new Promise((resolve) => {
      socket.once("close", resolve);
    });
    socket.close(4_321, "enough");
    expect(await closed).toBe(4_321);
    await until("the close in the guest", () => lab.results.includes("guest saw 4321"));
    await until("no tunnel", () => lab.tunnels.size === 0);
    expect(lab.results).toContain("1xx");
  });

  test("break when the VM ends, and are refused from then on", async () => {
    const socket = await open();
    const closed = new Promise((resolve) => {
      socket.once("close", resolve);
    });
    socket.on("error", () => undefined);
    lab.endVm(id, { state: "stopped" });
    expect(await closed).toBe(1006);
    await expect(open()).rejects.toThrow("502");
  });

  test("end in the guest when the client vanishes", async () => {
    const socket = await open();
    socket.terminate();
    await until("the close in the guest", () => lab.results.some((result) => result.startsWith("guest saw")));
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("need the traffic token where ports are not public", async () => {
    lab.sandbox(id, { network: {}, traffic_token: "right" });
    await expect(open()).rejects.toThrow("403");
    (await open({ "e2b-traffic-access-token": "right" })).terminate();
  });

  test("a paused sandbox is resumed for one", async () => {
    lab.sandbox(id, { state: "paused", time_paused: new Date(), auto_resume: true });
    lab.wake = async () => lab.sandbox(id, { state: "running", time_paused: null });
    (await open()).terminate();
    expect(lab.wakes).toBe(1);
  });
});

describe("other protocols", () => {
  test("bytes that come with the head, on either side, are not lost", async () => {
    await agree((socket, first) => {
      socket.write(`<${first.toString()}>`);
      socket.pipe(socket);
    });
    const connection = await lab.connect();
    connection.write(`${head()}early`);
    await switched(connection);
    expect(connection.received).toMatch(/^HTTP\/1\.1 101 Switching Protocols\r\n/);
    expect(connection.received).toMatch(/\r\nupgrade: echo\r\n/i);
    connection.write("late");
    await until("the echo", () => bodyOf(connection).includes("late"));
    expect(bodyOf(connection).replaceAll(/[<>]/g, "")).toBe("earlylate");
    connection.socket.destroy();
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("the client may end its half, and still gets all that comes", async () => {
    await agree((socket) => {
      socket.allowHalfOpen = true;
      let text = "";
      socket.on("data", (data: Buffer) => (text += data.toString()));
      socket.on("end", () => setTimeout(() => socket.end(`answer to ${text}`), 50));
    });
    const connection = await lab.connect();
    connection.write(head());
    await switched(connection);
    connection.socket.end("the question");
    await until("the end", () => connection.end !== undefined);
    expect(connection.end).toBe("end");
    expect(bodyOf(connection)).toBe("answer to the question");
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("the guest may end its half, and still gets all that comes", async () => {
    let got = "";
    let hasEnded = false;
    await agree((socket) => {
      socket.on("data", (data: Buffer) => (got += data.toString()));
      socket.on("end", () => (hasEnded = true));
      socket.end("that is all");
    });
    const connection = await lab.connect();
    connection.write(head());
    await until("the guest's end", () => connection.end === "end");
    expect(bodyOf(connection)).toBe("that is all");
    connection.socket.end("from the client, later");
    await until("the client's end", () => hasEnded);
    expect(got).toBe("from the client, later");
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("one side that breaks off breaks the other", async () => {
    await agree((socket) => {
      socket.write("begun");
      socket.once("data", () => socket.resetAndDestroy());
    });
    const connection = await lab.connect();
    connection.write(head());
    await until("the start", () => bodyOf(connection) === "begun");
    connection.write("x");
    await until("the end", () => connection.end !== undefined);
    expect(connection.end).toBe("reset");
  });

  test("a client that does not read holds the guest back", { timeout: 60_000 }, async () => {
    let sent = 0;
    await agree((socket) => {
      const piece = Buffer.alloc(256 * 1024);
      const fill = () => {
        while (sent < 200 * MiB) {
          sent += piece.length;
          if (!socket.write(piece)) return void socket.once("drain", fill);
        }
      };
      fill();
    });
    const connection = await lab.connect();
    connection.socket.pause();
    connection.write(head());
    let before = -1;
    await poll({ what: "a standstill", timeoutMs: 30_000, intervalMs: 200 }, () => {
      const isStill = sent === before && sent > 0;
      before = sent;
      return isStill ? true : undefined;
    });
    expect(sent).toBeLessThan(32 * MiB);
    connection.socket.destroy();
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("nothing moves for the idle time: both ends are cut", async () => {
    await using impatient = await ProxyLab.start({ idleTimeoutMs: 300 });
    impatient.sandbox(id);
    const guest = await impatient.serve(id, app, () => undefined);
    guest.on("upgrade", (_request, socket: Socket) => {
      socket.on("error", () => undefined);
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    });
    const connection = await impatient.connect();
    connection.write(head());
    await until("the end", () => connection.end !== undefined);
    expect(connection.end).toBe("reset");
    await until("no tunnel", () => impatient.tunnels.size === 0);
  });
});

describe("a guest that does not switch", () => {
  test("is heard, and the connection is closed: what follows is never taken for a tunnel", async () => {
    await lab.serve(id, app, (_request, response) => void response.writeHead(426, { "x-own": "1" }).end("no"));
    const connection = await lab.connect();
    connection.write(`${head()}GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 426 [^]*\r\nx-own: 1\r\n[^]*connection: close/i);
    expect(connection.received).not.toContain("control");
    expect(connection.received.match(/HTTP\/1\.1/g)).toHaveLength(1);
  });

  test("and streams its answer is read as fast as the client reads", { timeout: 60_000 }, async () => {
    const total = 40 * MiB;
    await lab.serve(id, app, (_request, response) => response.end(Buffer.alloc(total, "x")));
    const request = httpRequest(lab.options({ id, port: app, headers: { connection: "Upgrade", upgrade: "h2c" } }));
    request.end();
    let bytes = 0;
    await new Promise<void>((resolve, reject) => {
      request.once("response", (response) => {
        response.on("data", (chunk: Buffer) => (bytes += chunk.length));
        response.on("end", resolve);
        response.on("error", reject);
      });
      request.once("error", reject);
    });
    expect(bytes).toBe(total);
  });

  test("and a closed port, a wrong path, a body: the usual answers", async () => {
    const answerTo = async (text: string) => {
      const connection = await lab.connect();
      connection.write(text);
      await until("the end", () => connection.end !== undefined);
      return connection.received;
    };
    expect(await answerTo(head())).toMatch(/^HTTP\/1\.1 502 [^]*"port":3000/);
    expect(await answerTo(head().replace(`${app}-`, "49983-").replace("GET /", "GET /init"))).toMatch(/^HTTP\/1\.1 404 /);
    expect(await answerTo(head("Content-Length: 3\r\n").concat("abc"))).toMatch(/^HTTP\/1\.1 400 /);
    expect(await answerTo(head("Transfer-Encoding: chunked\r\n").concat("0\r\n\r\n"))).toMatch(/^HTTP\/1\.1 400 /);
    expect(await answerTo(head().replace(`${app}-${id}.x`, "127.0.0.1"))).toMatch(/^HTTP\/1\.1 404 /); // the control plane's
  });

  test("one that switches although nobody asked is not believed", async () => {
    await lab.serveRaw(id, app, (socket) => {
      socket.once("data", () => socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw"));
    });
    const answer = await lab.fetch({ id, port: app });
    expect(answer.status).toBe(502);
    expect(answer.body).not.toContain("raw");
    await until("no tunnel", () => lab.tunnels.size === 0);
  });
});
