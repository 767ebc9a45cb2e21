import { connect, createServer, type Server } from "node:net";
import { once } from "node:events";

import { poll, silentLogger } from "@roost/kit";
import { afterEach, describe, expect, test } from "vitest";

import { startTestAgent } from "../testing/test-agent.ts";
import { forwardsMax, PortForwards } from "./port-forwards.ts";

// 127.0.0.2 stands for the guest's outer address: as good as any other for what listens on 127.0.0.1 only.
const outerAddress = "127.0.0.2";
const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
});

async function echoServer(host: string, port = 0): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    socket.pipe(socket);
  });
  servers.push(server);
  server.listen({ host, port });
  await once(server, "listening");
  return (server.address() as { port: number }).port;
}

async function echo(port: number, text: string): Promise<string> {
  const socket = connect({ host: outerAddress, port, allowHalfOpen: true });
  let answer = "";
  socket.on("data", (bytes: Buffer) => {
    answer += bytes.toString("latin1");
  });
  socket.end(text);
  await once(socket, "end");
  return answer;
}

describe("with an agent that looks for listeners", () => {
  test("a server on 127.0.0.1 is reachable until it stops; one on ::1 too", async () => {
    await using agent = await startTestAgent({ scanIntervalMs: "50" });
    for (const host of ["127.0.0.1", "::1"]) {
      const port = await echoServer(host);
      await poll({ what: `the forward of ${host}`, timeoutMs: 30_000 }, async () => (await echo(port, "hello")) === "hello" || undefined);
      const long = "0123456789".repeat(50_000);
      expect(await echo(port, long)).toBe(long);
      await new Promise((resolve) => servers.pop()?.close(resolve));
      await poll({ what: "the forward gone", timeoutMs: 30_000 }, async () =>
        echo(port, "x").then(
          () => undefined,
          () => true,
        ),
      );
    }
    expect(agent.failures).toEqual([]);
  });

  test("the agent's own port is never forwarded", async () => {
    const port = await echoServer("127.0.0.1");
    await new Promise((resolve) => servers.pop()?.close(resolve));
    await using agent = await startTestAgent({ scanIntervalMs: "50", port: String(port) });
    const other = await echoServer("127.0.0.1");
    await poll({ what: "another forward", timeoutMs: 30_000 }, async () => (await echo(other, "x")) === "x" || undefined);
    await expect(echo(agent.port, "x")).rejects.toThrow("ECONNREFUSED");
  });
});

describe("forwards", () => {
  const create = () => new PortForwards({ outerAddress, agentPort: 1, log: silentLogger });

  test("half-closed connections stay usable", async () => {
    const forwards = create();
    const port = await echoServer("127.0.0.1");
    forwards.onListener(port, { ipv4: true, ipv6: false });
    expect(await poll({ what: "the forward", timeoutMs: 30_000 }, async () => echo(port, "half"))).toBe("half");
    forwards.close();
  });

  test("a port that is taken on the outer address is left alone", async () => {
    const port = await echoServer(outerAddress);
    const forwards = create();
    forwards.onListener(port, { ipv4: true, ipv6: false });
    await poll({ what: "the forward given up", timeoutMs: 30_000 }, () => (forwards.ports.length === 0 ? true : undefined));
    expect(await echo(port, "direct")).toBe("direct");
    forwards.close();
  });

  test("their number is bounded", () => {
    const forwards = create();
    for (let port = 20_000; port < 20_000 + forwardsMax + 20; port += 1) forwards.onListener(port, { ipv4: true, ipv6: false });
    expect(forwards.ports.length).toBe(forwardsMax);
    forwards.close();
    expect(forwards.ports).toEqual([]);
  });

  test("a target that refuses cuts the connection instead of leaving it hang", async () => {
    const port = await echoServer("127.0.0.1");
    const forwards = create();
    forwards.onListener(port, { ipv4: true, ipv6: false });
    await poll({ what: "the forward", timeoutMs: 30_000 }, async () => (await echo(port, "x")) === "x" || undefined);
    await new Promise((resolve) => servers.pop()?.close(resolve));
    await expect(echo(port, "x")).rejects.toThrow("ECONNRESET");
    forwards.close();
  });
});
