import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";

import { must, run } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { outside, useOutsideHosts } from "../support/outside-hosts.ts";
import { usePlatform, useSandbox } from "../support/platform.ts";

const platform = usePlatform();
const sandbox = useSandbox(platform);
const other = useSandbox(platform);
let hostServer: Server | undefined;
useOutsideHosts();

beforeAll(async () => {
  const server = createServer((_request, response) => response.end("the host"));
  await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
  hostServer = server;
});

afterAll(() => {
  hostServer?.close();
});

async function reaches(url: string): Promise<string> {
  const { stdout, exit_code } = await sandbox().exec("curl", { args: ["-sS", "-m", "4", url] });
  return exit_code === 0 ? stdout : `no (${exit_code})`;
}

/** Both ends of the slots' veth pairs: the host's, and the one that leads to a guest. */
async function slotAddresses(): Promise<string[]> {
  const links = await run(["ip", "-4", "-oneline", "address", "show"]);
  const found = [...links.matchAll(/inet (198\.1[89]\.\d+\.)(\d+)\/31/g)].flatMap(([, network = "", last = ""]) => [
    network + last,
    network + String(Number(last) + 1),
  ]);
  expect(found.length).toBeGreaterThanOrEqual(4);
  return found;
}

describe("a guest reaches", () => {
  test("the internet, with the host's address in place of its own", async () => {
    expect(await reaches(`http://${outside.address}/`)).toBe(`from ${outside.seenAs}`);
  });

  test("not a private address", async () => {
    expect(await reaches(`http://${outside.privateAddress}/`)).toMatch(/^no/);
  });

  test("not the host, by none of its addresses", async () => {
    const { port } = must(hostServer, "the host's own server").address() as AddressInfo;
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
    const { exit_code } = await sandbox().exec("ip", { args: ["-6", "route", "get", "2001:db8::1"] });
    expect(exit_code).not.toBe(0);
  });

  test("not another guest, although both have servers", async () => {
    await other().execBackground("python3", { args: ["-m", "http.server", "8080"], cwd: "/tmp" });
    for (const address of await slotAddresses()) expect(await reaches(`http://${address}:8080/`), address).toMatch(/^no/);
  });
});

test("what it may reach is changed while it runs, and limited", async () => {
  const { address, otherAddress, seenAs } = outside;
  const policy = await sandbox().setNetwork({
    allow_internet: false,
    allow_out: [otherAddress],
    limits: { connections: 50, out_mbit_per_sec: 10 },
  });
  expect(policy).toMatchObject({ allow_out: [otherAddress], limits: { connections: 50, in_mbit_per_sec: null } });
  expect(await sandbox().network()).toEqual(policy);
  expect(await reaches(`http://${address}/`)).toMatch(/^no/);
  expect(await reaches(`http://${otherAddress}/`)).toBe(`from ${seenAs}`);
  await sandbox().setNetwork({});
  expect(await reaches(`http://${address}/`)).toBe(`from ${seenAs}`);
});

test("a packet with another source address is dropped", async () => {
  const script = [
    "ip addr add 11.78.0.77/32 dev eth0",
    `curl -sS -m 4 --interface 11.78.0.77 http://${outside.address}/`,
    "code=$?",
    "ip addr del 11.78.0.77/32 dev eth0",
    "exit $code",
  ].join("; ");
  const { exit_code } = await sandbox().exec("sh", { args: ["-c", script], user: "root" });
  expect(exit_code).not.toBe(0);
  expect(await reaches(`http://${outside.address}/`)).toBe(`from ${outside.seenAs}`);
});

test("only root on the host may dial a guest", async () => {
  for (const address of await slotAddresses()) {
    const dial = `require("node:net").connect({host:"${address}",port:49983,timeout:3000}).on("connect",()=>process.exit(0)).on("error",()=>process.exit(3)).on("timeout",()=>process.exit(4))`;
    const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", process.execPath, "-e", dial] as const;
    await expect(run(asNobody, { timeoutMs: 10_000 }), address).rejects.toThrow(/exited with [34]/);
  }
});
