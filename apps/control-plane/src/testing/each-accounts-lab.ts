import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";

import type { Database } from "../db/database.ts";
import type { ControlPlaneOptions } from "../options.ts";
import { AccountsLab, forgetAccounts } from "./accounts-lab.ts";
import { openTestDatabase } from "./test-database.ts";

/** A new lab for each test of a file, over one database. */
export function eachAccountsLab(prepare: (lab: AccountsLab) => Promise<void> | void, options: Partial<ControlPlaneOptions> = {}): void {
  let database: Database;
  let lab: AccountsLab;
  beforeAll(async () => {
    database = await openTestDatabase();
  }, 60_000);
  afterAll(async () => database.close());
  beforeEach(async () => {
    await forgetAccounts(database.db);
    lab = new AccountsLab(database.db, options);
    await prepare(lab);
  });
  afterEach(() => lab[Symbol.dispose]());
}
