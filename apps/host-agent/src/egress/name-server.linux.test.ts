import { allTraffic } from "@roost/contract";
import { afterAll, beforeAll, expect, test } from "vitest";

import { openEgress } from "../network/egress-rules.ts";
import { dnsQuery } from "../testing/dns-query.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { world } from "../testing/network-lab.ts";

let lab: EgressLab;

beforeAll(async () => {
  lab = await EgressLab.create("rd");
});

afterAll(async () => lab?.[Symbol.asyncDispose]());

const allow = (...allowOut: string[]) => lab.setEgress({ ...openEgress, allowOut, denyOut: [allTraffic] });

/** Asks a resolver; the outcome and the addresses, or the error. */
const ask = (name: string, kind: "4" | "6" | "Txt" = "4", server: string = world.resolver) =>
  lab.guest.run(`
const resolver = new (require("node:dns").Resolver)({ timeout: 1500, tries: 1 });
resolver.setServers(["${server}"]);
resolver.resolve${kind}("${name}", (error, found) => console.log(error?.code ?? found.join()));
`);
const questionsOutside = () => lab.lab.worldOutput.split("\n").filter((line) => line.startsWith("udp "));

test("where names decide, only names that are allowed are asked after", async () => {
  await allow("internet.test", "*.internet.test", "private.test", "mixed.test", "unknown.test");
  const before = questionsOutside().length;
  expect(await ask("internet.test")).toBe(`${world.internet}\n`);
  expect(await ask("WWW.internet.test")).toBe(`${world.internet}\n`);
  expect(await ask("unknown.test")).toBe("ENOTFOUND\n");
  expect(await ask("mixed.test"), "without what no guest reaches").toBe(`${world.elsewhere}\n`);
  expect(await ask("private.test")).toBe("ENODATA\n");
  const asked = questionsOutside().slice(before);
  expect(asked).toHaveLength(5);
  expect(
    asked.filter((line) => !line.endsWith(`from 11.77.2.0`)),
    "by the host",
  ).toEqual([]);
  expect(await ask("elsewhere.test")).toBe("ENOTFOUND\n");
  expect(await ask("6d6573736167652e.elsewhere.test")).toBe("ENOTFOUND\n");
  expect(await ask("notinternet.test")).toBe("ENOTFOUND\n");
  expect(await ask("internet.test", "Txt"), "another kind of question").toBe("ENODATA\n");
  expect(await ask("internet.test", "6")).toBe("ENODATA\n");
  expect(questionsOutside()).toHaveLength(before + 5);
});

test("no other server is asked, and no other protocol carries a question", async () => {
  await allow("internet.test");
  const before = questionsOutside().length;
  expect(await ask("internet.test", "4", world.internet)).not.toContain("11.77");
  expect(await lab.guest.fetch(world.resolver, 53)).toMatch(/^refused: E/);
  await lab.guest.run(`
const socket = require("node:dgram").createSocket("udp4");
const send = (bytes) => new Promise((resolve) => socket.send(Buffer.from(bytes, "hex"), 53, "${world.resolver}", resolve));
(async () => { for (const bytes of ["00", "${Buffer.from("no question at all").toString("hex")}", "${dnsQuery("elsewhere.test").toString("hex")}"]) await send(bytes); socket.close(); })();
`);
  // What came before it has been answered or dropped
  expect(await ask("internet.test")).toBe(`${world.internet}\n`);
  expect(questionsOutside()).toHaveLength(before + 1);
});

test("a resolver that is allowed by its address is asked directly; without names and internet there is none", async () => {
  await allow("internet.test", world.resolver);
  expect(await ask("elsewhere.test")).toBe(`${world.elsewhere}\n`);
  await allow(world.elsewhere);
  expect(await ask("internet.test")).not.toContain("11.77");
  await lab.setEgress({ ...openEgress, denyOut: [world.elsewhere] });
  expect(await ask("internet.test")).toBe(`${world.internet}\n`);
});

test("the next host agent answers, too", async () => {
  const policy = { ...openEgress, allowOut: ["internet.test"], denyOut: [allTraffic] };
  await lab.setEgress(policy);
  await lab.restart([{ index: lab.slot.index, policy }], async () => {
    expect(await ask("internet.test")).not.toContain("11.77");
  });
  await lab.setEgress(policy);
  expect(await ask("internet.test")).toBe(`${world.internet}\n`);
  expect(await ask("elsewhere.test")).toBe("ENOTFOUND\n");
});
