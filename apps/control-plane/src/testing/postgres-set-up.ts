import { silentLogger } from "@roost/kit";
import type { TestProject } from "vitest/node";

import { openDatabase } from "../db/database.ts";
import { whyNoPostgres } from "./postgres-binaries.ts";
import { databaseNameOf, startPostgres } from "./postgres.ts";

/** Before and after the tests of the project `pg`: one server, and on it a database with all tables, of which tests get copies. */
export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  if (whyNoPostgres() !== undefined) return async () => undefined; // its tests say so
  const postgres = await startPostgres();
  try {
    const url = await postgres.createDatabase();
    await (await openDatabase({ kind: "server", url }, silentLogger)).close();
    project.provide("postgres", { url: postgres.url, migrated: databaseNameOf(url) });
  } catch (error) {
    await postgres[Symbol.asyncDispose]();
    throw error;
  }
  return async () => postgres[Symbol.asyncDispose]();
}
