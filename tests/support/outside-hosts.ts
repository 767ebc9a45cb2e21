import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";

import { must, run } from "@roost/kit";
import { afterAll, beforeAll } from "vitest";

/**
 * Hosts "on the internet": a namespace behind a veth pair, with addresses that are nobody's private or reserved ones (what the policy
 * calls the internet) and one that is private. No packet leaves this machine. Each answers on port 80 with `from <address that asked>`.
 */
export const outside = {
  address: "11.78.0.10",
  otherAddress: "11.78.0.11",
  block: "11.78.0.0/24",
  privateAddress: "10.99.87.10",
  /** The address of this machine that they see */
  seenAs: "11.78.0.1",
} as const;

const namespace = `roosttest${process.pid}`;
const link = `rt${process.pid}`.slice(0, 12);
const server = `require("node:http").createServer((q,r)=>r.end("from "+q.socket.remoteAddress)).listen(80,"0.0.0.0",()=>console.log("up"))`;

/** The hosts are there for all tests of a file. */
export function useOutsideHosts(): void {
  let child: ChildProcess | undefined;
  beforeAll(async () => {
    await run(["ip", "netns", "add", namespace]);
    await run(["ip", "link", "add", `${link}a`, "type", "veth", "peer", "name", `${link}b`, "netns", namespace]);
    await run(["ip", "addr", "add", `${outside.seenAs}/24`, "dev", `${link}a`]);
    await run(["ip", "addr", "add", "10.99.87.1/24", "dev", `${link}a`]);
    await run(["ip", "link", "set", `${link}a`, "up"]);
    for (const address of [outside.address, outside.otherAddress, outside.privateAddress])
      await run(["ip", "-n", namespace, "addr", "add", `${address}/24`, "dev", `${link}b`]);
    await run(["ip", "-n", namespace, "link", "set", `${link}b`, "up"]);
    await run(["ip", "-n", namespace, "link", "set", "lo", "up"]);
    child = spawn("ip", ["netns", "exec", namespace, process.execPath, "-e", server], { stdio: ["ignore", "pipe", "inherit"] });
    await once(must(child.stdout, "its output"), "data");
  });
  afterAll(async () => {
    child?.kill("SIGKILL");
    await run(["ip", "link", "del", `${link}a`]).catch(() => undefined); // gone with the namespace when set-up failed half-way
    await run(["ip", "netns", "del", namespace]);
  });
}
