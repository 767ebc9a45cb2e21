import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { hour, must, silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import type { Db } from "../db/database.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import { Reconciler } from "./reconciler.ts";

/** Ahead of the fake host's clock, so that what that says has happened */
let timeMs = Date.now() + hour;
const now = () => new Date(timeMs);
let world: ServiceWorld;
let db: Db;
eachServiceWorld((fresh, database) => {
  world = fresh;
  ({ db } = database);
}, now);

test("a host that is slow to answer says when a sandbox was started, though that was after it was asked", async () => {
  const { id } = await world.create();
  await world.sandboxes.lifecycle.pause(own(id), { memory: true });
  const { link, host } = world;
  const list = link.listSandboxes.bind(link);
  link.listSandboxes = async () => {
    timeMs += 20_000;
    const sandbox = must(host.sandboxes.get(id), "the sandbox on its host");
    Object.assign(sandbox, { state: SandboxState.RUNNING, generation: sandbox.generation + 1n, timeStartedMs: BigInt(timeMs) });
    delete sandbox.timePausedMs;
    return list();
  };
  await new Reconciler({ db, host: link, isExclusive: false, onEnded: () => undefined, log: silentLogger, now }).reconcile();
  const intervals = await db.selectFrom("sandbox_interval").select(["state", "time_started"]).where("sandbox_id", "=", id).execute();
  expect(intervals).toContainEqual({ state: "running", time_started: now() });
});
