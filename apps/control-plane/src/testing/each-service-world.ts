import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";

import type { Database } from "../db/database.ts";
import { ServiceWorld } from "./service-world.ts";
import { openTestDatabase } from "./test-database.ts";

/** A new world for each test of a file, over one database. `prepare` gets it before the test. */
export function eachServiceWorld(prepare: (world: ServiceWorld) => Promise<void> | void): void {
  let database: Database;
  let world: ServiceWorld;
  beforeAll(async () => {
    database = await openTestDatabase();
  }, 60_000);
  afterAll(async () => database.close());
  beforeEach(async () => {
    world = await ServiceWorld.start(database);
    await prepare(world);
  });
  afterEach(async () => world[Symbol.asyncDispose]());
}
