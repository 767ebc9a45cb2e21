import { createServer, type AddressInfo } from "node:net";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { must, poll, silentLogger } from "@roost/kit";
import { TestAuthority } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { FakeControlPlane } from "../testing/fake-control-plane.ts";
import { ControlPlaneAwayError, WrongControlPlaneError } from "./control-plane-port.ts";
import { identityPath, lifeOf, readIdentity, type HostIdentity } from "./host-identity.ts";
import type { HostReport } from "./host-report.ts";
import { Membership } from "./membership.ts";
import { checkToken, register } from "./register.ts";

const address = "10.0.0.7:7072";
const report: HostReport = {
  description: {
    agent_version: "0",
    vmm: "fake",
    vmm_version: "0",
    accelerator: "tcg",
    accelerator_reason: "a test",
    kernel_version: "0",
    arch: "x64",
    cpu_count: 1,
    memory_mb: 1024,
    disk_mb: 1024,
    sandbox_count_max: 1,
  },
  load: { memory_free_mb: 1, disk_free_mb: 1, cpu_load: 0, sandbox_count: 0 },
  health: { is_healthy: true, problems: [] },
};

let dir: string;
let controlPlane: FakeControlPlane;
const undo: (() => unknown)[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-registration-"));
  controlPlane = await FakeControlPlane.start();
});
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
  await controlPlane[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

async function registerHere(given: { token?: string; url?: string; signal?: AbortSignal } = {}): Promise<HostIdentity> {
  return register({
    dir,
    token: given.token ?? controlPlane.token,
    controlPlane: given.url ?? controlPlane.url,
    address,
    describe: async () => report.description,
    log: silentLogger,
    signal: given.signal ?? AbortSignal.timeout(30_000),
  });
}

describe("register", () => {
  test("the host makes its key, keeps it to itself, and gets a certificate for it", async () => {
    const identity = await registerHere();
    expect(identity).toMatchObject({ hostId: controlPlane.hostId, controlPlane: controlPlane.url });
    expect((await stat(identityPath(dir))).mode & 0o777).toBe(0o600);
    expect(await readIdentity(dir)).toEqual(identity);
    const [sent] = controlPlane.registrations;
    expect(sent).toMatchObject({ token: controlPlane.token, address, description: report.description });
    expect(JSON.stringify(sent)).not.toContain("PRIVATE KEY");
    await expect(stat(join(dir, "host-registration.json"))).rejects.toThrow("ENOENT");
    expect(await readFile(identityPath(dir), "utf8")).not.toContain(controlPlane.secret); // of no use any more, and nobody's business
  });

  test("who answers and is not the control plane of the token is told nothing", async () => {
    // Another installation; one that shows the right authority without a certificate of it; a host of the right one
    const other = await FakeControlPlane.start();
    undo.push(() => other[Symbol.asyncDispose]());
    await expect(registerHere({ url: other.url })).rejects.toThrow(WrongControlPlaneError);
    await expect(checkToken({ token: controlPlane.token, controlPlane: other.url })).rejects.toThrow("nothing was sent to it");
    expect(other.asked).toEqual([]);

    const host = await FakeControlPlane.start({ name: "roost://host/h9999999999abcdefghij" });
    undo.push(() => host[Symbol.asyncDispose]());
    await expect(registerHere({ url: host.url, token: host.token, signal: AbortSignal.timeout(1_000) })).rejects.toThrow("abort");
    expect(host.asked).toEqual([]);

    const stranger = await TestAuthority.create();
    const impostor = await FakeControlPlane.start({ shows: stranger }); // its chain ends with an authority that did not sign it
    undo.push(() => impostor[Symbol.asyncDispose]());
    await expect(registerHere({ url: impostor.url, token: impostor.token, signal: AbortSignal.timeout(1_000) })).rejects.toThrow("abort");
    expect(impostor.asked).toEqual([]);
    expect(await readIdentity(dir)).toBeUndefined();
  });

  test("what is no token is refused before anything is asked", async () => {
    for (const token of [
      "",
      "x",
      controlPlane.secret,
      `${controlPlane.secret}.`,
      `${controlPlane.token}0`,
      controlPlane.token.toUpperCase(),
    ]) {
      await expect(registerHere({ token }), token).rejects.toThrow("roost host add");
    }
    expect(controlPlane.asked).toEqual([]);
  });

  test("a lost answer is asked for again with the same key", async () => {
    controlPlane.losesAnswers = 1;
    await registerHere();
    const [first, second] = controlPlane.registrations;
    expect(must(second, "a second request").csr_pem).toBe(must(first, "a first request").csr_pem);
  });

  test("also by the next process", async () => {
    controlPlane.losesAnswers = 100;
    await expect(registerHere({ signal: AbortSignal.timeout(500) })).rejects.toThrow("abort");
    expect((await stat(join(dir, "host-registration.json"))).mode & 0o777).toBe(0o600);
    controlPlane.losesAnswers = 0;
    await registerHere();
    expect(new Set(controlPlane.registrations.map(({ csr_pem: csr }) => csr)).size).toBe(1);
  });

  test("a token that is refused fails at once, and the next one is asked for with another key", async () => {
    const wrong = `${"cd".repeat(32)}.${controlPlane.authority.fingerprint}`;
    await expect(registerHere({ token: wrong })).rejects.toMatchObject({ code: "registration_token_invalid" });
    await expect(stat(join(dir, "host-registration.json"))).rejects.toThrow("ENOENT");
    expect(controlPlane.asked).toHaveLength(1);
    await registerHere();
  });
});

describe("membership", () => {
  interface Running {
    readonly membership: Membership;
    readonly identities: HostIdentity[];
    readonly isEnded: () => boolean;
    readonly done: Promise<void>;
    readonly stop: () => Promise<void>;
  }

  function begin(identity: HostIdentity, now?: () => number): Running {
    const identities: HostIdentity[] = [];
    let ended = false;
    const abort = new AbortController();
    const membership = new Membership({
      dir,
      identity,
      report: async () => report,
      onIdentity: (next) => identities.push(next),
      onEnded: () => (ended = true),
      log: silentLogger,
      ...(now === undefined ? {} : { now }),
    });
    const done = membership.run(abort.signal);
    const stop = async () => {
      abort.abort();
      await done;
    };
    undo.push(stop);
    return { membership, identities, isEnded: () => ended, done, stop };
  }

  const soon = async (what: string, is: () => boolean) => poll({ what, timeoutMs: 30_000 }, () => (is() ? true : undefined));

  test("heartbeats go out under the host's name, and what is wanted comes back", async () => {
    const { membership } = begin(await registerHere());
    controlPlane.answer = { wanted: "draining" };
    await soon("three heartbeats", () => controlPlane.heartbeats.length >= 3);
    expect(controlPlane.asked.at(-1)).toEqual({ path: "/hosts/heartbeat", name: `roost://host/${controlPlane.hostId}` });
    expect(controlPlane.heartbeats[0]).toMatchObject({ address, load: report.load, health: { is_healthy: true, problems: [] } });
    const { wanted, timeHeardMs, leaseEndsMs, ended } = membership.status;
    expect({ wanted, ended }).toEqual({ wanted: "draining", ended: null });
    expect(must(leaseEndsMs, "a lease") - must(timeHeardMs, "an answer")).toBe(30_000);
  });

  test("a control plane that goes away is found again, and nothing has ended meanwhile", async () => {
    const running = begin(await registerHere());
    await soon("a heartbeat's answer", () => running.membership.status.timeHeardMs !== null);
    const { port } = controlPlane;
    await controlPlane.stop();
    const before = running.membership.status.timeHeardMs;
    const count = controlPlane.heartbeats.length;
    await new Promise((resolve) => setTimeout(resolve, 400)); // a few tries fail
    expect(running.isEnded()).toBe(false);
    expect(running.membership.status.timeHeardMs).toBe(before);
    await controlPlane.listen(port);
    await soon("a heartbeat again", () => controlPlane.heartbeats.length > count);
  });

  test("errors that say nothing of the host end nothing", async () => {
    const running = begin(await registerHere());
    controlPlane.refuses = new PlatformError("internal", "a bug there");
    await soon("some tries", () => controlPlane.asked.length >= 3);
    controlPlane.refuses = undefined;
    await soon("a heartbeat", () => controlPlane.heartbeats.length > 0);
    expect(running.isEnded()).toBe(false);
  });

  test.each(["host_deleted", "host_certificate_refused"] as const)("%s ends it: once, and nothing is sent after that", async (code) => {
    const running = begin(await registerHere());
    await soon("a heartbeat", () => controlPlane.heartbeats.length > 0);
    controlPlane.refuses = new PlatformError(code, "no more");
    await running.done;
    expect(running.isEnded()).toBe(true);
    expect(running.membership.status.ended).toContain("roost host-agent --register");
    const asked = controlPlane.asked.length;
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(controlPlane.asked).toHaveLength(asked);
    expect(await readIdentity(dir)).toBeDefined(); // data stays
  });

  test("the next certificate is asked for after two thirds of a life, with a new key, and used and kept", async () => {
    const first = await registerHere();
    const { fromMs, toMs } = lifeOf(first.certificatePem);
    let nowMs = fromMs + (toMs - fromMs) * 0.6;
    const running = begin(first, () => nowMs);
    await soon("two heartbeats", () => controlPlane.heartbeats.length >= 2);
    expect(running.identities).toEqual([]);
    nowMs = fromMs + (toMs - fromMs) * 0.67;
    await soon("the next certificate", () => running.identities.length === 1);
    const [next] = running.identities;
    expect(next).toMatchObject({ hostId: first.hostId, tokenDigest: first.tokenDigest, caPem: first.caPem });
    expect(next?.keyPem).not.toBe(first.keyPem);
    expect(next?.certificatePem).not.toBe(first.certificatePem);
    expect(await readIdentity(dir)).toEqual(next);
    expect((await stat(identityPath(dir))).mode & 0o777).toBe(0o600);
  });

  test("a lost answer is asked for again with the same key, and heartbeats go on meanwhile", async () => {
    const first = await registerHere();
    const { fromMs, toMs } = lifeOf(first.certificatePem);
    let nowMs = fromMs + (toMs - fromMs) * 0.7;
    controlPlane.losesAnswers = 1;
    const running = begin(first, () => nowMs);
    await soon("heartbeats", () => controlPlane.heartbeats.length >= 2);
    expect(running.identities).toEqual([]);
    nowMs += 61_000;
    await soon("the next certificate", () => running.identities.length === 1);
    expect(controlPlane.asked.filter(({ path }) => path === "/hosts/certificate")).toHaveLength(2);
  });

  test("a clock that is wrong is told", async () => {
    begin(await registerHere());
    controlPlane.answer = { time: new Date(Date.now() - 60_000).toISOString() };
    await soon("two heartbeats", () => controlPlane.heartbeats.length >= 2);
    expect(controlPlane.heartbeats.at(-1)?.health).toMatchObject({
      is_healthy: false,
      problems: [expect.stringMatching(/^its clock is (59|60) s ahead of the control plane's/)],
    });
  });
});

test("a control plane that accepts and never answers is away, after a deadline", async () => {
  const silent = createServer((socket) => socket.on("error", () => undefined));
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  await expect(checkToken({ token: controlPlane.token, controlPlane: url })).rejects.toThrow(ControlPlaneAwayError);
  silent.close();
});
