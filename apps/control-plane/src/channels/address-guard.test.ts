import { createServer, type AddressInfo } from "node:net";

import { expect, test } from "vitest";

import { Receiver } from "../testing/receiver.ts";
import { AddressGuard, type Resolve } from "./address-guard.ts";
import { parseRanges } from "./address-ranges.ts";
import { send } from "./send.ts";

const forbidden = [
  "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "168.63.129.16",
  "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
  "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1",
  "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1", "not an address", "",
]; // prettier-ignore

test("addresses that are not public are not allowed, however they are written", () => {
  const guard = new AddressGuard([]);
  expect(forbidden.filter((address) => guard.isAllowed(address))).toEqual([]);
  const open = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "::ffff:8.8.8.8", "2606:4700:4700::1111"];
  expect(open.filter((address) => !guard.isAllowed(address))).toEqual([]);
});

test.each([
  "http://127.1/",
  "http://0x7f.1/",
  "http://2130706433/",
  "http://017700000001/",
  "http://[::1]/",
  "http://[::ffff:7f00:1]/",
  "http://0/",
  "http://127.0.0.1./",
])("%s is what it means", (url) => {
  expect(() => new AddressGuard([]).requireUrl(new URL(url))).toThrow(/does not lead to a public address/);
});

test("an operator can allow ranges, and nothing but these", () => {
  const guard = new AddressGuard(parseRanges("10.1.0.0/16, fd00::/8,192.168.7.7"));
  const allowed = ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "192.168.7.7"];
  expect(allowed.filter((address) => !guard.isAllowed(address))).toEqual([]);
  expect(["10.2.0.1", "192.168.7.8", "fc00::1", "127.0.0.1"].filter((address) => guard.isAllowed(address))).toEqual([]);
  for (const bad of ["10.0.0.0/33", "office", "10.0.0", "1.2.3.4/x"])
    expect(() => parseRanges(bad), bad).toThrow(/no address range|invalid|CIDR/i);
});

const post = (url: string) => ({ method: "POST", url: new URL(url), headers: {}, body: "{}" }) as const;
const sent = async (guard: AddressGuard, url: string) => send(guard, post(url), 2_000, new AbortController().signal);
/** Answers with each of these in turn, and the last one from then on. */
function resolving(...answers: readonly (readonly string[])[]): { resolve: Resolve; asked: () => number } {
  let asked = 0;
  return {
    resolve: async () => {
      const addresses = answers[Math.min(asked, answers.length - 1)] ?? [];
      asked += 1;
      if (addresses.length === 0) throw Object.assign(new Error("ENOTFOUND"), { code: "ENOTFOUND" });
      return addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
    },
    asked: () => asked,
  };
}

test("a name that means a private address, among others or alone, or nothing at all, is refused in the same words", async () => {
  await using receiver = await Receiver.start();
  const url = `http://hooks.example:${receiver.port}/`;
  const outcomes = [];
  for (const addresses of [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], []]) {
    outcomes.push(await sent(new AddressGuard([], resolving(addresses).resolve), url));
  }
  expect(receiver.received).toEqual([]);
  expect(new Set(outcomes.map((outcome) => JSON.stringify(outcome))).size).toBe(1);
  expect(outcomes[0]).toMatchObject({ isTaken: false, status: null, error: expect.stringContaining("does not lead to a public address") });
});

test("a name is resolved once, and the connection goes where it led then, whatever it leads to a moment later", async () => {
  await using allowed = await Receiver.start();
  let stolen = 0;
  const inside = createServer((socket) => {
    stolen += 1;
    socket.destroy();
  });
  await new Promise<void>((resolve) => inside.listen(0, "127.0.0.2", resolve));
  try {
    // first what is allowed, then what is not: who checks one look-up and connects by another one would get inside
    const { resolve, asked } = resolving(["127.0.0.1"], ["127.0.0.2"]);
    const guard = new AddressGuard(parseRanges("127.0.0.1"), resolve);
    expect(await sent(guard, `http://rebinding.example:${allowed.port}/`)).toMatchObject({ isTaken: true });
    expect(asked()).toBe(1);
    const again = await sent(guard, `http://rebinding.example:${(inside.address() as AddressInfo).port}/`);
    expect(again).toMatchObject({ isTaken: false, error: expect.stringContaining("does not lead to a public address") });
    expect(stolen).toBe(0);
  } finally {
    inside.close();
  }
});

test("a redirect to a private address is not followed", async () => {
  await using receiver = await Receiver.start();
  receiver.behaviour = (_request, response) => void response.writeHead(307, { location: "http://169.254.169.254/latest/meta-data" }).end();
  const guard = new AddressGuard(parseRanges("127.0.0.0/8"));
  expect(await sent(guard, receiver.url())).toMatchObject({ isTaken: false, status: 307 });
  expect(receiver.received).toHaveLength(1);
});
