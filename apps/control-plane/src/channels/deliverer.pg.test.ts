import { minute } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { ChannelWorld } from "../testing/channel-world.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { openTwoControlPlanes, type TwoControlPlanes } from "../testing/two-control-planes.ts";

const why = whyNoPostgres();
const sandboxes = 6;
const eventsOfEach = 8;

describe.skipIf(why !== undefined)(`deliveries on PostgreSQL${why === undefined ? "" : ` (${why})`}`, () => {
  let both: TwoControlPlanes;
  let one: Database;
  let two: Database;
  let world: ChannelWorld;
  beforeAll(async () => {
    both = await openTwoControlPlanes();
    ({ one, two } = both);
  }, 60_000);
  afterAll(async () => both?.[Symbol.asyncDispose]());
  beforeEach(async () => (world = await ChannelWorld.start(one)));
  afterEach(async () => world[Symbol.asyncDispose]());

  const expected = (sandbox: number) => Array.from({ length: eventsOfEach }, (_, index) => `i${sandbox} ${index}`);
  const happen = async () => {
    for (let index = 0; index < eventsOfEach; index += 1) {
      for (let sandbox = 0; sandbox < sandboxes; sandbox += 1) await world.happen(`i${sandbox}`, `i${sandbox} ${index}`);
    }
  };
  const inOrder = (path: string) => {
    const messages = world.messagesAt(path);
    return Array.from({ length: sandboxes }, (_, sandbox) => messages.filter((message) => message.startsWith(`i${sandbox} `)));
  };

  test("two control planes send each event once, those of a sandbox in order, and keep to a channel's limit together", async () => {
    await world.webhook("hook");
    await world.webhook("other");
    await happen();
    let most = 0;
    const open = new Map<string, number>();
    world.receiver.behaviour = async ({ path }, response) => {
      open.set(path, (open.get(path) ?? 0) + 1);
      most = Math.max(most, open.get(path) ?? 0);
      await new Promise((resolve) => setTimeout(resolve, 5));
      open.set(path, (open.get(path) ?? 0) - 1);
      response.end();
    };
    const deliverers = [world.deliverer(one), world.deliverer(two)];
    // One may find nothing to do while the other has all that can be done
    while (world.receiver.received.length < 2 * sandboxes * eventsOfEach) {
      const counts = await Promise.all(deliverers.map(async (deliverer) => world.deliver(deliverer)));
      if (counts.every((count) => count === 0)) break;
    }
    for (const path of ["/hook", "/other"])
      expect(inOrder(path)).toEqual(Array.from({ length: sandboxes }, (_, sandbox) => expected(sandbox)));
    expect(most).toBeLessThanOrEqual(4);
    expect(most).toBeGreaterThan(1);
  });

  test("a receiver that often fails gets all of them in the end, in order", async () => {
    const { channel } = await world.webhook("hook");
    await happen();
    let count = 0;
    const taken: string[] = [];
    world.receiver.behaviour = ({ body }, response) => {
      count += 1;
      const isTaken = count % 3 !== 0;
      if (isTaken) taken.push((JSON.parse(body) as { data: { message: string } }).data.message);
      response.writeHead(isTaken ? 200 : 500).end();
    };
    const deliverers = [world.deliverer(one, { random: Math.random }), world.deliverer(two, { random: Math.random })];
    for (let round = 0; round < 200 && taken.length < sandboxes * eventsOfEach; round += 1) {
      await Promise.all(deliverers.map(async (deliverer) => world.deliver(deliverer)));
      world.wait(1 * minute);
    }
    for (let sandbox = 0; sandbox < sandboxes; sandbox += 1) {
      expect(taken.filter((message) => message.startsWith(`i${sandbox} `))).toEqual(expected(sandbox));
    }
    expect(await world.channels.get("default", channel.id)).toMatchObject({ pending: 0, failed: 0 });
  });

  test("a channel that is deleted while it is being sent to is gone, and nothing hangs", async () => {
    const { channel } = await world.webhook("hook");
    await happen();
    let deleting: Promise<void> | undefined;
    world.receiver.behaviour = async (_request, response) => {
      deleting ??= world.channels.delete(world.caller, channel.id);
      await deleting;
      response.end();
    };
    await Promise.all([world.deliver(world.deliverer(one)), world.deliver(world.deliverer(two))]);
    await deleting;
    expect(await one.db.selectFrom("delivery").select("id").execute()).toEqual([]);
    await expect(world.channels.get("default", channel.id)).rejects.toMatchObject({ code: "channel_not_found" });
  });
});
