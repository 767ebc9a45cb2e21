import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";

import { must, run } from "@roost/kit";
import { proxyCredentials, proxyServersScript } from "@roost/testing";
import { afterAll, beforeAll } from "vitest";

/**
 * Hosts "on the internet": a namespace behind a veth pair, with addresses that are nobody's private or reserved ones (what the policy
 * calls the internet) and one that is private. No packet leaves this machine. Each answers on port 80 with `from <address that asked>`. One has
 * SOCKS5 proxies, one of them with a password.
 */
export const outside = {
  address: "11.78.0.10",
  otherAddress: "11.78.0.11",
  block: "11.78.0.0/24",
  privateAddress: "10.99.87.10",
  proxyAddress: "11.78.0.12",
  proxyPort: 1_080,
  passwordProxyPort: 1_081,
  proxyCredentials,
  /** A name that only the proxies know, of `address` */
  nameForProxies: "inner.roost.example",
  /** The address of this machine that they see */
  seenAs: "11.78.0.1",
} as const;

/** Its network namespace. */
export const outsideNamespace = `roosttest${process.pid}`;
const namespace = outsideNamespace;
const link = `rt${process.pid}`.slice(0, 12);
const server = `require("node:http").createServer((q,r)=>r.end("from "+q.socket.remoteAddress)).listen(80,"0.0.0.0",()=>console.log("up"))`;

const proxies = proxyServersScript({
  address: outside.proxyAddress,
  listeners: [
    { protocol: "socks5", kind: "open", port: outside.proxyPort },
    { protocol: "socks5", kind: "password", port: outside.passwordProxyPort },
  ],
  names: { [outside.nameForProxies]: outside.address },
});

/** The hosts are there for all tests of a file. */
export function useOutsideHosts(): void {
  const children: ChildProcess[] = [];
  beforeAll(async () => {
    await run(["ip", "netns", "add", namespace]);
    await run(["ip", "link", "add", `${link}a`, "type", "veth", "peer", "name", `${link}b`, "netns", namespace]);
    await run(["ip", "addr", "add", `${outside.seenAs}/24`, "dev", `${link}a`]);
    await run(["ip", "addr", "add", "10.99.87.1/24", "dev", `${link}a`]);
    await run(["ip", "link", "set", `${link}a`, "up"]);
    for (const address of [outside.address, outside.otherAddress, outside.proxyAddress, outside.privateAddress])
      await run(["ip", "-n", namespace, "addr", "add", `${address}/24`, "dev", `${link}b`]);
    await run(["ip", "-n", namespace, "link", "set", `${link}b`, "up"]);
    await run(["ip", "-n", namespace, "link", "set", "lo", "up"]);
    for (const program of [server, proxies]) {
      const child = spawn("ip", ["netns", "exec", namespace, process.execPath, "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
      children.push(child);
      await once(must(child.stdout, "its output"), "data");
      child.stdout?.resume();
    }
  });
  afterAll(async () => {
    for (const child of children) child.kill("SIGKILL");
    await run(["ip", "link", "del", `${link}a`]).catch(() => undefined); // gone with the namespace when set-up failed half-way
    await run(["ip", "netns", "del", namespace]);
  });
}
