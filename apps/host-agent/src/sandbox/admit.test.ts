import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

async function running(host: FakeHost): Promise<{ readonly sandboxId: string; readonly revision: bigint }> {
  const spec = aSpec();
  const { sandbox } = await host.client.createSandbox({ spec });
  return { sandboxId: spec.sandboxId, revision: sandbox?.generation ?? 0n };
}

const changed = { code: "sandbox_changed" };

test("what is based on an older revision is refused, and nothing is done", async () => {
  await using host = await FakeHost.start();
  const { client } = host;
  const { sandboxId, revision } = await running(host);
  await client.checkpointSandbox({ sandboxId, revision });
  const { sandbox: before } = await client.getSandbox({ sandboxId });
  expect(before?.generation).toBeGreaterThan(revision);
  const old = { sandboxId, revision };
  expect(await failureOf(client.pauseSandbox(old))).toMatchObject(changed);
  expect(await failureOf(client.checkpointSandbox(old))).toMatchObject(changed);
  expect(await failureOf(client.rollbackSandbox({ ...old, generation: 1 }))).toMatchObject(changed);
  expect(await failureOf(client.setTimeout({ ...old, timeoutSec: 7 }))).toMatchObject(changed);
  expect(await failureOf(client.setNetwork({ ...old, network: { denyOut: ["0.0.0.0/0"] } }))).toMatchObject(changed);
  expect(await failureOf(client.resumeSandbox({ ...old, timeoutSec: 7 }))).toMatchObject(changed);
  const { sandbox: after } = await client.getSandbox({ sandboxId });
  expect({ ...after, timeLastActiveMs: 0n }).toEqual({ ...before, timeLastActiveMs: 0n });

  await client.pauseSandbox({ sandboxId, revision: before?.generation ?? 0n });
  expect(await failureOf(client.resumeSandbox({ sandboxId, revision: before?.generation ?? 0n }))).toMatchObject(changed);
});

test("a pause or resume that is repeated succeeds, however old it is", async () => {
  await using host = await FakeHost.start();
  const { sandboxId, revision } = await running(host);
  await host.client.pauseSandbox({ sandboxId, revision });
  const again = await host.client.pauseSandbox({ sandboxId, revision });
  expect(again.sandbox).toMatchObject({ state: SandboxState.PAUSED, currentGeneration: 1 });
  const paused = again.sandbox?.generation ?? 0n;
  await host.client.resumeSandbox({ sandboxId, revision: paused });
  expect((await host.client.resumeSandbox({ sandboxId, revision: paused })).sandbox?.state).toBe(SandboxState.RUNNING);
});

test("an answer that it is so already is an answer: an older call does not fit any more", async () => {
  await using host = await FakeHost.start();
  const { sandboxId, revision } = await running(host);
  // a pause was given up and has not arrived; its client wants the sandbox to run after all, and is told that it does
  await host.client.resumeSandbox({ sandboxId, revision });
  expect(await failureOf(host.client.pauseSandbox({ sandboxId, revision }))).toMatchObject(changed);
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
});

test("a caller that knows no revision is heard as ever, and one that is ahead, too", async () => {
  await using host = await FakeHost.start();
  const { sandboxId, revision } = await running(host);
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  expect((await host.client.pauseSandbox({ sandboxId, revision: revision + 1_000n })).sandbox?.state).toBe(SandboxState.PAUSED);
});
