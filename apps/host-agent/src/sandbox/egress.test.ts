import { readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";

import { allTraffic, PlatformError } from "@roost/contract";
import { SandboxState, type Parcel } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must, poll } from "@roost/kit";
import { expect, test } from "vitest";

import { carry } from "../testing/carry.ts";
import { failureOf } from "../testing/failure-of.ts";
import { closedEgress, openEgress, type HostEgress } from "../network/egress-rules.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

const none = { allowOut: [], denyOut: [allTraffic] };
const some = { allowOut: ["203.0.113.7", "example.com"], denyOut: [allTraffic] };
const open = { allowOut: [], denyOut: [] };
const proxy = { protocol: "socks5", address: "proxy.example.com:1080", username: "someone", password: "open-sesame" };
const proxied = { ...some, proxy };
/** As it is in force, and recorded */
const [noneInForce, someInForce, openInForce] = [none, some, open].map((policy) => ({ ...openEgress, ...policy, authority: null }));
const proxiedInForce = { ...openEgress, ...proxied, authority: null };
const canary = "Bearer canary-3a7f";
const ruled = { ...open, rules: { "api.example.com": { headers: { Authorization: canary } } } };

/** What the guest of a sandbox may reach right now. */
function inForce(host: FakeHost, sandboxId: string): unknown {
  const uid = must(host.driver.specOf(sandboxId), "a VM that runs").uid;
  return host.network.egress.get(host.network.slot(uid - host.network.slot(0).uid).index) ?? openInForce;
}

async function recorded(host: FakeHost, sandboxId: string): Promise<unknown> {
  const path = join(host.folder, "state", "sandboxes", sandboxId, "sandbox.json");
  return (JSON.parse(await readFile(path, "utf8")) as SandboxRecord).spec.network;
}

/** What is in force at the moment when each VM starts. */
function atStarts(host: FakeHost): unknown[] {
  const seen: unknown[] = [];
  host.onGuest = () => {
    const slot = must([...host.network.lent].at(-1), "the slot that was lent last");
    seen.push(host.network.egress.get(slot) ?? openInForce);
  };
  return seen;
}

/** Id of a VM in the warm pool. */
async function waitingVm(host: FakeHost): Promise<string> {
  return poll({ what: "the warm pool", timeoutMs: 30_000 }, () => host.driver.stopped.find((id) => id.startsWith("p")));
}

test("a policy is in force before the guest runs: after a create, a resume, a rollback and a fork", async () => {
  await using host = await FakeHost.start();
  const seen = atStarts(host);
  const spec = aSpec({ network: some });
  const { sandboxId } = spec;
  const { sandbox } = await host.client.createSandbox({ spec });
  expect(sandbox?.spec?.network).toMatchObject(some);
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  const { generation } = await host.client.checkpointSandbox({ sandboxId });
  await host.client.rollbackSandbox({ sandboxId, generation: generation?.number ?? 0 });
  const child = aSpec();
  await host.client.forkSandbox({ sandboxId, children: [{ sandboxId: child.sandboxId, accessToken: child.accessToken, envs: {} }] });
  expect(seen).toEqual([someInForce, someInForce, someInForce, someInForce]);
  expect(inForce(host, child.sandboxId)).toEqual(someInForce);
});

test("a sandbox that is moved has the policy that the control plane says, with its secrets, and the authority that its guest trusts", async () => {
  await using source = await FakeHost.start();
  await using destination = await FakeHost.start();
  const network = { ...some, proxy, rules: ruled.rules };
  const spec = aSpec({ network });
  const { sandboxId } = spec;
  await source.client.createSandbox({ spec });
  const { authority } = must(source.network.egress.values().next().value, "a policy in force");
  await source.client.pauseSandbox({ sandboxId });
  let sent = "";
  const onParcel = (parcel: Parcel) => {
    sent = Buffer.from(parcel.record).toString("utf8");
    parcel.record = Buffer.from(sent.replace(some.allowOut[0] ?? "", "198.51.100.7")); // a host that lies
  };
  const clients = [() => source.client, () => destination.client] as const;
  await carry(sandboxId, ...clients, { onParcel, known: { network } });
  expect(sent).not.toContain(canary);
  expect(sent).not.toContain(proxy.password);
  await destination.endAgent();
  await destination.startAgent();
  await destination.client.resumeSandbox({ sandboxId });
  expect(authority).not.toBeNull();
  expect(inForce(destination, sandboxId)).toEqual({ ...openEgress, ...network, authority });
});

test("a VM from the warm pool gets the policy of its sandbox before it goes on", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "base=1" } });
  await waitingVm(host);
  const spec = aSpec({ vcpus: 0, memoryMib: 0, network: none });
  let wasStopped: boolean | undefined;
  host.network.onSetEgress = (_slot, policy) => {
    if (policy.denyOut.length > 0) wasStopped = host.driver.stopped.includes(spec.sandboxId);
  };
  const { sandbox } = await host.client.createSandbox({ spec });
  expect(sandbox?.startPath).toBe("pool");
  expect(wasStopped).toBe(true);
  expect(await recorded(host, spec.sandboxId)).toEqual(noneInForce);
});

test("a VM of a snapshot reaches nothing while it waits in the pool", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "mine=1" } });
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  await host.client.createTemplate({ sandboxId: spec.sandboxId, name: "mine" });
  expect(inForce(host, await waitingVm(host))).toEqual(closedEgress);
  const taker = aSpec({ template: "mine", vcpus: 0, memoryMib: 0 });
  expect((await host.client.createSandbox({ spec: taker })).sandbox?.startPath).toBe("pool");
  const slots = [...host.network.egress.values()];
  expect(slots, "the internet, as it was asked for").toContainEqual(openInForce);
});

test("a policy is replaced while the sandbox runs, and recorded before that is answered", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  const { sandbox } = await host.client.setNetwork({ sandboxId, network: some });
  expect(sandbox?.spec?.network).toMatchObject(some);
  expect(inForce(host, sandboxId)).toEqual(someInForce);
  expect(await recorded(host, sandboxId)).toEqual(someInForce);
  await host.client.setNetwork({ sandboxId });
  expect(inForce(host, sandboxId)).toEqual(openInForce);
});

test("a paused sandbox's new policy is in force when it runs again", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  await host.client.pauseSandbox({ sandboxId });
  await host.client.setNetwork({ sandboxId, network: none });
  expect(await recorded(host, sandboxId)).toEqual(noneInForce);
  const seen = atStarts(host);
  await host.client.resumeSandbox({ sandboxId });
  expect(seen).toEqual([noneInForce]);
});

test("a policy that cannot be put in force leaves the one before, and says so", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ network: some });
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  host.network.onSetEgress = () => {
    throw new Error("nft says no");
  };
  const failure = await failureOf(host.client.setNetwork({ sandboxId, network: none }));
  expect(failure).toMatchObject({ code: "internal", message: expect.stringContaining("the one before stays") as string });
  expect(inForce(host, sandboxId)).toEqual(someInForce);
  expect(await recorded(host, sandboxId)).toEqual(someInForce);
  // And a start that cannot be held to its policy does not happen
  const refused = aSpec({ network: none });
  expect(await failureOf(host.client.createSandbox({ spec: refused }))).toMatchObject({ code: "sandbox_start_failed" });
  expect(host.driver.running).toEqual([sandboxId]);
});

test("a policy that cannot be written down leaves the one before in force, and says so", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ network: some });
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  const folder = join(host.folder, "state", "sandboxes", sandboxId);
  await rename(folder, `${folder}x`); // where its record should be there is nothing
  const failure = await failureOf(host.client.setNetwork({ sandboxId, network: none }));
  await rename(`${folder}x`, folder);
  expect(failure).toMatchObject({ code: "internal", message: expect.stringContaining("the one before stays") as string });
  expect(inForce(host, sandboxId)).toEqual(someInForce);
  expect(await recorded(host, sandboxId)).toEqual(someInForce);
});

test("a policy that makes no sense is refused, and one for a sandbox in between too", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  for (const [network, message] of [
    [{ allowOut: [], denyOut: ["10.0.0.0/33"] }, "CIDR"],
    [{ allowOut: ["example.com"], denyOut: [] }, allTraffic],
    [{ allowOut: ["2001:db8::1"], denyOut: [] }, "IPv6"],
    [{ allowOut: Array.from({ length: 1_001 }, () => "1.2.3.4"), denyOut: [] }, "1000"],
  ] as const) {
    const failure = await failureOf(
      host.client.setNetwork({ sandboxId, network: { allowOut: [...network.allowOut], denyOut: [...network.denyOut] } }),
    );
    expect(failure).toMatchObject({ code: "request_invalid", message: expect.stringContaining(message) as string });
  }
  host.driver.hangNextStart();
  const creating = aSpec();
  const created = failureOf(host.client.createSandbox({ spec: creating }));
  await poll({ what: "the hanging start", timeoutMs: 30_000, intervalMs: 2 }, () => (host.driver.startsHanging === 1 ? true : undefined));
  expect(await failureOf(host.client.setNetwork({ sandboxId: creating.sandboxId, network: none }))).toMatchObject({
    code: "sandbox_wrong_state",
  });
  await host.client.destroySandbox({ sandboxId: creating.sandboxId });
  await created;
});

test("the next host agent holds the VMs that it takes over to their recorded policies, or ends them", async () => {
  await using host = await FakeHost.start();
  const [one, other] = [aSpec({ network: some }), aSpec({ network: none })];
  await host.client.createSandbox({ spec: one });
  await host.client.createSandbox({ spec: other });
  await host.endAgent();
  host.network.egress.clear();
  host.network.onSetEgress = (_slot, policy) => {
    if (policy.allowOut.length === 0) throw new Error("nft says no");
  };
  await host.startAgent();
  expect(inForce(host, one.sandboxId)).toEqual(someInForce);
  expect(host.driver.running).toEqual([one.sandboxId]);
  const { sandbox } = await host.client.getSandbox({ sandboxId: other.sandboxId });
  expect(sandbox?.state).toBe(SandboxState.FAILED);
  expect(host.network.lent.size).toBe(1);
});

test("a proxy stays with its sandbox: over a pause, a rollback, a fork and the next host agent", async () => {
  await using host = await FakeHost.start();
  const seen = atStarts(host);
  const spec = aSpec({ network: proxied });
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  host.network.onCheckProxy = () => {
    throw new PlatformError("egress_proxy_invalid", "only who asks for one is told");
  };
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  const { generation } = await host.client.checkpointSandbox({ sandboxId });
  await host.client.rollbackSandbox({ sandboxId, generation: generation?.number ?? 0 });
  const child = aSpec();
  await host.client.forkSandbox({ sandboxId, children: [{ sandboxId: child.sandboxId, accessToken: child.accessToken, envs: {} }] });
  expect(seen).toEqual([proxiedInForce, proxiedInForce, proxiedInForce, proxiedInForce]);
  await host.endAgent();
  await host.startAgent();
  expect([...host.network.startedWith].map(({ policy }) => policy)).toEqual([proxiedInForce, proxiedInForce]);
  expect(inForce(host, sandboxId)).toEqual(proxiedInForce);
});

test("a password is recorded sealed, and told to nobody", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ network: proxied });
  const { sandboxId } = spec;
  const created = await host.client.createSandbox({ spec });
  const known = await host.client.getSandbox({ sandboxId });
  const listed = await host.client.listSandboxes({});
  const changed = await host.client.setNetwork({ sandboxId, network: proxied });
  expect(known.sandbox?.spec?.network?.proxy).toMatchObject({ address: proxy.address, username: proxy.username });
  for (const answer of [created, known, listed, changed]) expect(inspect(answer, { depth: 10 })).not.toContain(proxy.password);
  const path = join(host.folder, "state", "sandboxes", sandboxId, "sandbox.json");
  expect(await readFile(path, "utf8")).not.toContain(proxy.password);
  const { mode } = await stat(path);
  expect(mode & 0o777).toBe(0o600);
});

test("a proxy that no connection would be opened to is refused before anything is done", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  host.network.onCheckProxy = () => {
    throw new PlatformError("egress_proxy_invalid", "the egress proxy is not accepted: it is private");
  };
  const refused = { code: "egress_proxy_invalid", message: expect.stringContaining("it is private") as string };
  const other = aSpec({ network: proxied });
  expect(await failureOf(host.client.createSandbox({ spec: other }))).toMatchObject(refused);
  expect(await host.hasFile("sandboxes", other.sandboxId)).toBe(false);
  expect(await failureOf(host.client.setNetwork({ sandboxId: spec.sandboxId, network: proxied }))).toMatchObject(refused);
  expect(await recorded(host, spec.sandboxId)).toEqual(openInForce);
  for (const [bad, message] of [
    [{ ...proxy, protocol: "" }, "network"],
    [{ ...proxy, address: "nowhere" }, "host:port"],
    [{ protocol: "socks5", address: proxy.address, password: "x" }, "needs a username"],
  ] as const) {
    const failure = await failureOf(host.client.setNetwork({ sandboxId: spec.sandboxId, network: { ...open, proxy: bad } }));
    expect(failure).toMatchObject({ code: "request_invalid", message: expect.stringContaining(message) as string });
  }
});

/** The authority that is in force for a sandbox. */
const authorityOf = (host: FakeHost, sandboxId: string) => (inForce(host, sandboxId) as HostEgress).authority;

test("headers are set from the first moment on, their values are told to nobody and recorded sealed, and the next host agent has them", async () => {
  await using host = await FakeHost.start();
  const seen = atStarts(host);
  const spec = aSpec({ network: ruled });
  const { sandboxId } = spec;
  const created = await host.client.createSandbox({ spec });
  expect(seen).toMatchObject([{ rules: ruled.rules, authority: { domains: ["api.example.com"] } }]);
  const authority = must(authorityOf(host, sandboxId), "an authority");
  const answers = [created, await host.client.getSandbox({ sandboxId }), await host.client.setNetwork({ sandboxId, network: ruled })];
  const path = join(host.folder, "state", "sandboxes", sandboxId, "sandbox.json");
  const written = await readFile(path, "utf8");
  for (const text of [...answers.map((answer) => inspect(answer, { depth: 10 })), written]) {
    expect(text).not.toContain("canary");
    expect(text).not.toContain("PRIVATE KEY");
  }
  expect(await recorded(host, sandboxId)).toMatchObject({ rules: { "api.example.com": { headers: { Authorization: "" } } } });
  await host.endAgent();
  await host.startAgent();
  expect(inForce(host, sandboxId)).toEqual({ ...openEgress, ...ruled, authority });
  expect(await readFile(path, "utf8"), "and so it is when it was written again").not.toContain("canary");
});

test("a sandbox keeps its authority over changes of values, pauses and forks, and has another one for other domains", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ network: ruled });
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  const authority = authorityOf(host, sandboxId);
  await host.client.setNetwork({ sandboxId, network: { ...open, rules: { "api.example.com": { headers: { "X-Other": "1" } } } } });
  expect(authorityOf(host, sandboxId)).toEqual(authority);
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  const child = aSpec();
  await host.client.forkSandbox({ sandboxId, children: [{ sandboxId: child.sandboxId, accessToken: child.accessToken, envs: {} }] });
  expect([authorityOf(host, sandboxId), authorityOf(host, child.sandboxId)]).toEqual([authority, authority]);
  await host.client.setNetwork({ sandboxId, network: { ...open, rules: { "other.example.com": { headers: { "X-Other": "1" } } } } });
  expect(authorityOf(host, sandboxId)).toMatchObject({ domains: ["other.example.com"] });
  expect(authorityOf(host, sandboxId)?.certificatePem).not.toBe(authority?.certificatePem);
  await host.client.setNetwork({ sandboxId, network: open });
  expect(inForce(host, sandboxId)).toEqual(openInForce);
});

test("a record that shows its secrets, from before they were sealed, is read, and sealed when it is written again", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ network: proxied });
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  await host.endAgent();
  const path = join(host.folder, "state", "sandboxes", sandboxId, "sandbox.json");
  const { sealed: _, ...record } = JSON.parse(await readFile(path, "utf8")) as { sealed: string; spec: { network: object } };
  await writeFile(path, JSON.stringify({ ...record, spec: { ...record.spec, network: proxied } }));
  await host.startAgent();
  expect(inForce(host, sandboxId)).toEqual(proxiedInForce);
  await host.client.pauseSandbox({ sandboxId });
  expect(await readFile(path, "utf8")).not.toContain(proxy.password);
});
