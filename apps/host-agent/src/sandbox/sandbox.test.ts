import { availableParallelism } from "node:os";

import { Code, type ConnectError } from "@connectrpc/connect";
import { errorCodeHeader, guestAgentPort } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost, type WireSpec } from "../testing/fake-host.ts";
import { createSteps } from "./context.ts";
import { requestsWaitingMax } from "./sandbox.ts";
import { startsAtOnce } from "./starts-at-once.ts";

async function untilState(host: FakeHost, sandboxId: string, state: SandboxState) {
  return poll({ what: `state ${SandboxState[state]}`, timeoutMs: 30_000, intervalMs: 2 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return sandbox?.state === state ? sandbox : undefined;
  });
}

test("a sandbox is created, told who it is, and destroyed without a trace", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec({ envs: { GREETING: "hello" } });
  const { sandbox } = await host.client.createSandbox({ spec });
  expect(sandbox).toMatchObject({
    state: SandboxState.RUNNING,
    spec: { sandboxId: spec.sandboxId, vcpus: 1, memoryMib: 256 },
    versions: { kernel: "6.1.0-test", vmm: "fake 1", accelerator: "tcg", guest_agent: "0.0.1" },
  });
  const guest = host.guests.get(spec.sandboxId);
  expect(guest?.inits).toHaveLength(1);
  expect(guest?.inits[0]).toMatchObject({
    token: undefined, // it has none yet
    body: {
      accessToken: spec.accessToken,
      envVars: { GREETING: "hello" },
      sandboxId: spec.sandboxId,
      hostname: spec.sandboxId,
      templateId: "base",
    },
  });
  expect(host.driver.specOf(spec.sandboxId)?.begin).toMatchObject({ kind: "boot", kernelArguments: ["roost.dns=192.0.2.53"] });
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(await host.leftovers()).toEqual([]);
  expect(await failureOf(host.client.getSandbox({ sandboxId: spec.sandboxId }))).toMatchObject({
    code: "sandbox_not_found",
    connectCode: Code.NotFound,
  });
});

test("destroying what is unknown succeeds", async () => {
  await using host = await FakeHost.start();
  await expect(host.client.destroySandbox({ sandboxId: "inothing" })).resolves.toBeDefined();
});

test.each(createSteps)("a create that fails at %s leaves a failed sandbox and nothing else", async (failing) => {
  await using host = await FakeHost.start({
    deps: {
      onStep: (step) => {
        if (step === failing) throw new Error(`injected at ${step}`);
      },
    },
  });
  const spec = aSpec();
  expect(await failureOf(host.client.createSandbox({ spec }))).toMatchObject({ code: "sandbox_start_failed" });
  const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
  expect(sandbox).toMatchObject({ state: SandboxState.FAILED, failureReason: "the sandbox could not be started" });
  expect(await host.leftovers()).toEqual([`folder ${spec.sandboxId}`]);
  expect(await host.hasFile("sandboxes", spec.sandboxId, "disk")).toBe(false);
  const { sandboxCount } = await host.client.getHost({});
  expect(sandboxCount).toBe(0);
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(await host.leftovers()).toEqual([]);
});

test.each(createSteps)("a create that is destroyed at %s is rolled back, and its caller is told", async (step) => {
  let arrived = () => {};
  const atStep = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  let proceed = () => {};
  const gate = new Promise<void>((resolve) => {
    proceed = resolve;
  });
  await using host = await FakeHost.start({
    deps: {
      onStep: async (current) => {
        if (current !== step) return;
        arrived();
        await gate;
      },
    },
  });
  const spec = aSpec();
  const creating = failureOf(host.client.createSandbox({ spec }));
  await atStep;
  const destroying = host.client.destroySandbox({ sandboxId: spec.sandboxId });
  await untilState(host, spec.sandboxId, SandboxState.STOPPING);
  proceed();
  await destroying;
  expect(await creating).toMatchObject({ code: "create_aborted" });
  expect(await host.leftovers()).toEqual([]);
});

test("a VMM that does not start fails the create; one that hangs is ended by a destroy", async () => {
  await using host = await FakeHost.start();
  host.driver.failNextStart();
  expect(await failureOf(host.client.createSandbox({ spec: aSpec() }))).toMatchObject({
    code: "sandbox_start_failed",
    message: "the VM did not start",
  });

  host.driver.hangNextStart();
  const spec = aSpec();
  const creating = failureOf(host.client.createSandbox({ spec }));
  await poll({ what: "the hanging start", timeoutMs: 30_000, intervalMs: 2 }, () => (host.driver.startsHanging === 1 ? true : undefined));
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(await creating).toMatchObject({ code: "create_aborted" });
  expect(host.driver.startsHanging).toBe(0);
});

test("a VM that ends while its guest boots fails the create with how it ended", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  host.onGuest = (guest) => {
    guest.health = undefined;
  };
  const creating = failureOf(host.client.createSandbox({ spec }));
  await poll({ what: "the VM", timeoutMs: 30_000, intervalMs: 2 }, () => host.driver.specOf(spec.sandboxId));
  host.driver.writeConsole(spec.sandboxId, "Kernel panic - not syncing\n");
  await host.driver.end(spec.sandboxId, { exitCode: 3 });
  expect(await creating).toMatchObject({
    code: "sandbox_start_failed",
    message: 'the VM ended while it was starting: its VMM exited with code 3; the last it said was "Kernel panic - not syncing"',
  });
  const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
  expect(sandbox?.vmExit).toMatchObject({ exitCode: 3, consoleTail: expect.arrayContaining(["Kernel panic - not syncing"]) as string[] });
});

test("a guest that never answers fails the create within the boot deadline", async () => {
  await using host = await FakeHost.start({ deps: { times: { bootTimeoutMs: 300 } } });
  host.onGuest = (guest) => {
    guest.health = 500;
  };
  expect(await failureOf(host.client.createSandbox({ spec: aSpec() }))).toMatchObject({ code: "sandbox_start_failed" });
  expect(host.driver.running).toEqual([]);
});

test("a guest that refuses its identity fails the create", async () => {
  await using host = await FakeHost.start();
  host.onGuest = (guest) => {
    guest.initStatus = 500;
  };
  expect(await failureOf(host.client.createSandbox({ spec: aSpec() }))).toMatchObject({ code: "guest_error" });
});

test("creates of one id join, and return the running sandbox later", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const answers = await Promise.all([
    host.client.createSandbox({ spec }),
    host.client.createSandbox({ spec }),
    host.client.createSandbox({ spec }),
  ]);
  expect(answers.map(({ sandbox }) => sandbox?.state)).toEqual([SandboxState.RUNNING, SandboxState.RUNNING, SandboxState.RUNNING]);
  expect(host.driver.running).toEqual([spec.sandboxId]);
  expect((await host.client.createSandbox({ spec })).sandbox?.generation).toBe(answers[0].sandbox?.generation);
});

test("a dead VM makes its sandbox failed, with signal, console and nothing held", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  host.driver.writeConsole(spec.sandboxId, "last words\n");
  await host.driver.end(spec.sandboxId, { signal: "SIGKILL" });
  const failed = await untilState(host, spec.sandboxId, SandboxState.FAILED);
  expect(failed).toMatchObject({
    failureReason: "the VM ended: its VMM was ended by SIGKILL",
    vmExit: { signal: "SIGKILL", consoleTail: expect.arrayContaining(["last words"]) as string[] },
  });
  await poll({ what: "release of what it held", timeoutMs: 30_000, intervalMs: 2 }, async () =>
    host.network.lent.size === 0 ? true : undefined,
  );
  const { data } = await host.client.getConsole({ sandboxId: spec.sandboxId });
  expect(Buffer.from(data).toString()).toContain("last words");
  await expect(host.agent.tunnels.connect(spec.sandboxId, guestAgentPort)).rejects.toMatchObject({ code: "sandbox_wrong_state" });
});

test("inactivity pauses a sandbox; an open tunnel is activity", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const tunnel = await host.agent.tunnels.connect(spec.sandboxId, guestAgentPort);
  await host.client.setTimeout({ sandboxId: spec.sandboxId, timeoutSec: 1 });
  await new Promise((resolve) => {
    setTimeout(resolve, 1_300); // longer than the timeout: what is shown is that nothing happens
  });
  expect((await host.client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
  tunnel.destroy();
  await untilState(host, spec.sandboxId, SandboxState.PAUSED);
  expect(await host.leftovers()).toEqual([`folder ${spec.sandboxId}`]);
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(await host.leftovers()).toEqual([]);
});

test("tunnels carry bytes and are cut when the sandbox ends", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const tunnel = await host.agent.tunnels.connect(spec.sandboxId, guestAgentPort);
  const closed = new Promise<void>((resolve) => {
    tunnel.once("close", () => resolve());
  });
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  await closed;
  expect(tunnel.destroyed).toBe(true);
  await expect(host.agent.tunnels.connect("inothing", guestAgentPort)).rejects.toMatchObject({ code: "sandbox_not_found" });
});

test("a port nobody listens on is guest_unreachable", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  await expect(host.agent.tunnels.connect(spec.sandboxId, 8080)).rejects.toMatchObject({ code: "guest_unreachable" });
});

test("a guest agent that died is waited for and told again who it is; the sandbox stays running", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const guest = host.guests.get(spec.sandboxId);
  await guest?.die();
  let dials = 0;
  const { resolvePort } = host.network;
  host.network.resolvePort = (slot, port) => {
    dials += 1;
    return resolvePort(slot, port);
  };
  const connecting = host.agent.tunnels.connect(spec.sandboxId, guestAgentPort);
  await poll({ what: "the second try", timeoutMs: 30_000, intervalMs: 2 }, () => (dials >= 2 ? true : undefined));
  await guest?.comeBack();
  const tunnel = await connecting;
  tunnel.destroy();
  expect(guest?.inits).toHaveLength(2);
  expect(guest?.inits[1]?.token).toBe(spec.accessToken);
  expect((await host.client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
});

test("too many requests for one sandbox are refused at once", async () => {
  let proceed = () => {};
  const gate = new Promise<void>((resolve) => {
    proceed = resolve;
  });
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  host.network.onRelease = () => gate;
  const destroying = [host.client.destroySandbox({ sandboxId: spec.sandboxId })];
  await untilState(host, spec.sandboxId, SandboxState.STOPPING);
  for (let count = 0; count < requestsWaitingMax; count += 1) destroying.push(host.client.destroySandbox({ sandboxId: spec.sandboxId }));
  expect(await failureOf(host.client.destroySandbox({ sandboxId: spec.sandboxId }))).toMatchObject({ code: "sandbox_busy" });
  proceed();
  await Promise.all(destroying);
});

test("a full host says how full it is, and when to try again", async () => {
  await using host = await FakeHost.start({ settings: { sandboxCountMax: "1" } });
  await host.client.createSandbox({ spec: aSpec() });
  const refused = await failureOf(host.client.createSandbox({ spec: aSpec() }));
  expect(refused).toMatchObject({
    code: "capacity_exhausted",
    message: "this host holds 1 of at most 1 sandboxes; end one or try again later",
  });
  expect(await failureOf(host.client.createSandbox({ spec: aSpec({ memoryMib: 10 }) }))).toMatchObject({ code: "request_invalid" });
});

test("what a host has no template or memory for leaves no record", async () => {
  await using host = await FakeHost.start();
  expect(await failureOf(host.client.createSandbox({ spec: aSpec({ template: "nothing" }) }))).toMatchObject({
    code: "template_not_found",
  });
  expect(await failureOf(host.client.createSandbox({ spec: aSpec({ memoryMib: 64 * 1024 }) }))).toMatchObject({
    code: "capacity_exhausted",
  });
  expect((await host.client.listSandboxes({})).sandboxes).toEqual([]);
  expect(await host.leftovers()).toEqual([]);
});

test("a failed release leaves the sandbox stopping, and deleting again finishes", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  host.network.onRelease = () => {
    throw new Error("the namespace is busy");
  };
  expect(await failureOf(host.client.destroySandbox({ sandboxId: spec.sandboxId }))).toMatchObject({ code: "internal" });
  expect((await host.client.getSandbox({ sandboxId: spec.sandboxId })).sandbox?.state).toBe(SandboxState.STOPPING);
  host.network.onRelease = () => undefined;
  await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(await host.leftovers()).toEqual([]);
});

test("a watcher hears of every change in order, and of the removal", async () => {
  await using host = await FakeHost.start();
  const end = new AbortController();
  const seen: string[] = [];
  const spec = aSpec();
  const watching = (async () => {
    for await (const { event } of host.client.watchSandboxes({}, { signal: end.signal })) {
      if (event.case === "sandbox") seen.push(`${SandboxState[event.value.state]} ${event.value.generation}`);
      else seen.push(event.case === "happened" ? event.value.kind : (event.case ?? ""));
      if (event.case === "synced")
        void host.client.createSandbox({ spec }).then(() => host.client.destroySandbox({ sandboxId: spec.sandboxId }));
      if (event.case === "removedSandboxId") return;
    }
  })();
  await watching;
  end.abort();
  expect(seen).toEqual(["synced", "CREATING 1", "RUNNING 2", "sandbox.created", "STOPPING 3", "STOPPED 4", "removedSandboxId"]);
});

test("metrics name the guest's memory and disk, whatever nonsense it says", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const guest = host.guests.get(spec.sandboxId);
  if (guest === undefined) throw new Error("no guest");
  expect(await host.client.getMetrics({ sandboxId: spec.sandboxId, range: "5m" })).toMatchObject({
    memoryTotalBytes: 1_000n,
    diskTotalBytes: 900n,
  });
  expect(await failureOf(host.client.getMetrics({ sandboxId: spec.sandboxId, range: "9m" }))).toMatchObject({ code: "request_invalid" });
});

test("creates beyond what the host starts at once wait for their turn, and can be destroyed while they do", async () => {
  await using host = await FakeHost.start();
  const atOnce = startsAtOnce("tcg", availableParallelism());
  for (let count = 0; count < atOnce; count += 1) host.driver.hangNextStart();
  const hanging = Array.from({ length: atOnce }, () => aSpec());
  const waiting = [aSpec(), aSpec()] as const;
  const outcomeOf = async (spec: WireSpec) =>
    host.client.createSandbox({ spec }).then(
      () => "running",
      (error: unknown) => (error as ConnectError).metadata.get(errorCodeHeader),
    );
  const aborted = hanging.map(outcomeOf);
  await poll({ what: "the hanging starts", timeoutMs: 30_000, intervalMs: 2 }, () =>
    host.driver.startsHanging === atOnce ? true : undefined,
  );
  const outcomes = waiting.map(outcomeOf);
  for (const spec of waiting) {
    await poll(
      { what: "its record", timeoutMs: 30_000, intervalMs: 2 },
      async () => (await host.hasFile("sandboxes", spec.sandboxId, "sandbox.json")) || undefined,
    );
  }
  expect(host.driver.running).toEqual([]);
  await host.client.destroySandbox({ sandboxId: waiting[0].sandboxId });
  expect(await outcomes[0]).toBe("create_aborted");
  for (const spec of hanging) await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  expect(new Set(await Promise.all(aborted))).toEqual(new Set(["create_aborted"]));
  expect(await outcomes[1]).toBe("running");
  expect(host.driver.running).toEqual([waiting[1].sandboxId]);
});
