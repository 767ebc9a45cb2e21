import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must } from "@roost/kit";
import { expect, test } from "vitest";

import type { Db } from "../db/database.ts";
import { claimAbandoned } from "../db/operations.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";

/** Changes of a sandbox that its host has changed meanwhile, or that come to it late. */

let world: ServiceWorld;
let db: Db;
eachServiceWorld((fresh, database) => {
  world = fresh;
  ({ db } = database);
});

const withMemory = { memory: true };

/** A sandbox whose host has made a checkpoint of itself, which nobody told the control plane. */
async function behind(): Promise<string> {
  const { id } = await world.create();
  const { host } = world;
  const sandbox = must(host.sandboxes.get(id), "the sandbox on its host");
  sandbox.generation += 3n;
  return id;
}

test("a change is asked for again where the host is ahead of the record", async () => {
  const { lifecycle, networks } = world.sandboxes;
  const pausing = await behind();
  expect(await lifecycle.pause(own(pausing), withMemory)).toMatchObject({ state: "paused", current_generation: 1 });
  const checkpointed = await behind();
  expect((await lifecycle.checkpoint(own(checkpointed))).generation.number).toBe(1);
  expect((await world.sandboxes.setTimeout(own(await behind()), 7)).timeout_sec).toBe(7);
  const restricted = await behind();
  await networks.replaceEgress(own(restricted), { allow_internet: false, allow_out: [], deny_out: [], egress_proxy: null, rules: {} });
  expect(world.host.sandboxes.get(restricted)?.spec?.network?.denyOut).toEqual(["0.0.0.0/0"]);
});

test("a pause that arrives after it was given up, and after another answer, is not carried out", async () => {
  const { id } = await world.create();
  const { client } = world.link;
  const { generation } = await world.sandboxes.get(own(id));
  const late = { sandboxId: id, revision: BigInt(generation), memory: true };
  await world.sandboxes.lifecycle.resume(own(id), withMemory); // it runs already, says the answer
  await expect(client.pauseSandbox(late)).rejects.toThrow("revision");
  expect(world.host.sandboxes.get(id)?.state).toBe(SandboxState.RUNNING);
});

test("who asks again for what was done already is answered so, though the record did not know", async () => {
  const { id } = await world.create();
  const { lifecycle } = world.sandboxes;
  await lifecycle.pause(own(id), withMemory);
  expect(await lifecycle.pause(own(id), withMemory)).toMatchObject({ state: "paused", current_generation: 1 });
  expect(world.host.images.calls.get("pauseSandbox")).toBe(1);
});

test("what another control plane has taken over is not asked for again", async () => {
  const id = await behind();
  const { link } = world;
  const look = link.getSandbox.bind(link);
  link.getSandbox = async (sandboxId) => {
    await claimAbandoned(db, { claimedBy: "another", claimEnds: new Date(), limit: 1, deadClaims: true }, new Date());
    return look(sandboxId);
  };
  await expect(world.sandboxes.lifecycle.pause(own(id), withMemory)).rejects.toMatchObject({ code: "operation_interrupted" });
  expect(world.host.sandboxes.get(id)?.state).toBe(SandboxState.RUNNING);
});

test("who finds out that nothing came of a pause makes sure that nothing will", async () => {
  const { id } = await world.create();
  const { client } = world.link;
  const { pauseSandbox } = client;
  let late: Parameters<typeof pauseSandbox>[0] | undefined;
  client.pauseSandbox = async (request) => {
    late = request;
    throw new Error("nobody knows what came of it");
  };
  await expect(world.sandboxes.lifecycle.pause(own(id), withMemory)).rejects.toMatchObject({ code: "internal" });
  client.pauseSandbox = pauseSandbox;
  await world.sandboxes.recovery.round();
  const [operation] = await world.sandboxes.operations.list(firstTeam, { subject: id, limit: 1 });
  expect(operation).toMatchObject({ kind: "sandbox.pause", state: "failed" });
  await expect(client.pauseSandbox(must(late, "what was asked of the host"))).rejects.toThrow("revision");
  expect(world.host.sandboxes.get(id)?.state).toBe(SandboxState.RUNNING);
});
