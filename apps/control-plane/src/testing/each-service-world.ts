import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";

import type { Database } from "../db/database.ts";
import { ServiceWorld } from "./service-world.ts";
import { openTestDatabase } from "./test-database.ts";

/** A new world for each test of a file, over one database. `prepare` gets both before the test. `now`: the world's clock */
export function eachServiceWorld(
  prepare: (world: ServiceWorld, database: Database) => Promise<void> | void,
  now: () => Date = () => new Date(),
): void {
  let database: Database;
  let world: ServiceWorld;
  beforeAll(async () => {
    database = await openTestDatabase();
  }, 60_000);
  afterAll(async () => database.close());
  beforeEach(async () => {
    world = await ServiceWorld.start(database, now);
    await prepare(world, database);
  });
  afterEach(async () => world[Symbol.asyncDispose]());
}
