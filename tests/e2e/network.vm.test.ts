import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";

import { run } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { usePlatform, useSandbox } from "../support/platform.ts";

/**
 * A host "on the internet": a namespace with a public address (TEST-NET-3, RFC 5737) behind a veth pair, and one with a private address.
 * No packet leaves this machine.
 */
const namespace = `roosttest${process.pid}`;
const link = `rt${process.pid}`.slice(0, 12);
const publicAddress = "203.0.113.10";
const privateAddress = "10.99.87.10";

const platform = usePlatform();
const sandbox = useSandbox(platform);
const other = useSandbox(platform);
let hostServer: Server;
let testHost: { pid: number; end: () => void } | undefined;

beforeAll(async () => {
  await run(["ip", "netns", "add", namespace]);
  await run(["ip", "link", "add", `${link}a`, "type", "veth", "peer", "name", `${link}b`, "netns", namespace]);
  await run(["ip", "addr", "add", "203.0.113.1/24", "dev", `${link}a`]);
  await run(["ip", "addr", "add", "10.99.87.1/24", "dev", `${link}a`]);
  await run(["ip", "link", "set", `${link}a`, "up"]);
  for (const address of [`${publicAddress}/24`, `${privateAddress}/24`])
    await run(["ip", "-n", namespace, "addr", "add", address, "dev", `${link}b`]);
  await run(["ip", "-n", namespace, "link", "set", `${link}b`, "up"]);
  await run(["ip", "-n", namespace, "link", "set", "lo", "up"]);
  const { spawn } = await import("node:child_process");
  const child = spawn(
    "ip",
    [
      "netns",
      "exec",
      namespace,
      process.execPath,
      "-e",
      `require("node:http").createServer((q,r)=>r.end("from "+q.socket.remoteAddress)).listen(80,"0.0.0.0",()=>console.log("up"))`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await new Promise((resolve) => child.stdout.once("data", resolve));
  testHost = { pid: child.pid ?? Number.NaN, end: () => child.kill("SIGKILL") };
  hostServer = createServer((_request, response) => response.end("the host"));
  await new Promise<void>((resolve) => hostServer.listen(0, "0.0.0.0", resolve));
});

afterAll(async () => {
  testHost?.end();
  hostServer.close();
  await run(["ip", "link", "del", `${link}a`]).catch(() => undefined); // gone with the namespace when set-up failed half-way
  await run(["ip", "netns", "del", namespace]);
});

async function reaches(url: string): Promise<string> {
  const { stdout, exit_code } = await sandbox().exec("curl", { args: ["-sS", "-m", "4", url] });
  return exit_code === 0 ? stdout : `no (${exit_code})`;
}

describe("a guest reaches", () => {
  test("the internet, with the host's address in place of its own", async () => {
    expect(await reaches(`http://${publicAddress}/`)).toBe("from 203.0.113.1");
  });

  test("not a private address", async () => {
    expect(await reaches(`http://${privateAddress}/`)).toMatch(/^no/);
  });

  test("not the host, by none of its addresses", async () => {
    const { port } = hostServer.address() as AddressInfo;
    const own = Object.values(networkInterfaces())
      .flatMap((addresses) => addresses ?? [])
      .filter(({ family, internal }) => family === "IPv4" && !internal);
    expect(own.length).toBeGreaterThan(0);
    for (const { address } of own) expect(await reaches(`http://${address}:${port}/`), address).toMatch(/^no/);
    expect(await reaches(`http://169.254.0.22:${port}/`)).toMatch(/^no/);
  });

  test("not the platform's API, not metadata addresses, not IPv6", async () => {
    expect(await reaches(`${platform().client.url.replace("127.0.0.1", "169.254.0.22")}/health`)).toMatch(/^no/);
    expect(await reaches("http://169.254.169.254/latest/meta-data/")).toMatch(/^no/);
    const { stdout } = await sandbox().exec("sh", { args: ["-c", "cat /proc/net/if_inet6 2>/dev/null | grep -v ' lo$' | wc -l"] });
    expect(stdout.trim()).toBe("0");
  });

  test("not another guest, although both have servers", async () => {
    await other().execBackground("python3", { args: ["-m", "http.server", "8080"], cwd: "/tmp" });
    const { stdout } = await run(["sh", "-c", "ip -4 -o addr show | awk '{print $4}'"]).then((text) => ({ stdout: text }));
    const slotRanges = stdout.split("\n").filter((line) => line.startsWith("198.18."));
    for (const range of slotRanges) {
      const [address = ""] = range.split("/");
      const [a, b, c, d] = address.split(".").map(Number);
      for (const last of [0, 1, 2, 3]) expect(await reaches(`http://${a}.${b}.${c}.${((d ?? 0) & 252) + last}:8080/`)).toMatch(/^no/);
    }
  });
});

test("a packet with another source address is dropped", async () => {
  const script = [
    "ip addr add 203.0.113.77/32 dev eth0",
    `curl -sS -m 4 --interface 203.0.113.77 http://${publicAddress}/`,
    "code=$?",
    "ip addr del 203.0.113.77/32 dev eth0",
    "exit $code",
  ].join("; ");
  const { exit_code } = await sandbox().exec("sh", { args: ["-c", script], user: "root" });
  expect(exit_code).not.toBe(0);
  expect(await reaches(`http://${publicAddress}/`)).toBe("from 203.0.113.1");
});

test("only root on the host may dial a guest", async () => {
  const links = (await run(["ip", "-4", "route"])).split("\n").filter((line) => line.startsWith("198.18."));
  expect(links.length).toBeGreaterThan(0);
  for (const line of links) {
    const [address = ""] = line.split(" ");
    const dial = `require("node:net").connect({host:"${address.split("/")[0]}",port:49983,timeout:3000}).on("connect",()=>process.exit(0)).on("error",()=>process.exit(3)).on("timeout",()=>process.exit(4))`;
    await expect(
      run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", process.execPath, "-e", dial], { timeoutMs: 10_000 }),
    ).rejects.toThrow(/exited with [34]/);
  }
});
