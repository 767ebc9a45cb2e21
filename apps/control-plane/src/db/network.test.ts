import { networkPolicySchema, newSandboxId } from "@roost/contract";
import { must } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { firstTeam } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database } from "./database.ts";
import { recordNetwork } from "./network.ts";
import { findSandboxOfAnyTeam, insertSandbox } from "./sandboxes.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

const denying = (address: string) => networkPolicySchema.parse({ deny_out: [address] });

test("of two changes the later one stays recorded, in whichever order they are written; another host's is not", async () => {
  const id = newSandboxId();
  await insertSandbox(database.db, { ...plainSandbox, id, hostId: "host-1", timeCreated: new Date() });
  const of = { id, team_id: firstTeam, host_id: "host-1" };
  const recorded = async () => must(await findSandboxOfAnyTeam(database.db, id), "the record").network.deny_out;
  expect(await recordNetwork(database.db, of, denying("203.0.113.2"), 3)).toBeDefined();
  expect(await recordNetwork(database.db, of, denying("203.0.113.1"), 2), "asked before, written after").toBeUndefined();
  expect(await recorded()).toEqual(["203.0.113.2"]);
  expect(await recordNetwork(database.db, { ...of, host_id: "host-2" }, denying("203.0.113.3"), 4)).toBeUndefined();
  expect(await recorded()).toEqual(["203.0.113.2"]);
});

test("what is said of ports meanwhile stays", async () => {
  const id = newSandboxId();
  const network = { ...denying("203.0.113.1"), is_public: true, mask_request_host: "localhost" };
  await insertSandbox(database.db, { ...plainSandbox, id, hostId: "host-1", timeCreated: new Date(), network });
  await recordNetwork(database.db, { id, team_id: firstTeam, host_id: "host-1" }, denying("203.0.113.2"), 2);
  expect(must(await findSandboxOfAnyTeam(database.db, id), "the record").network).toEqual({
    ...denying("203.0.113.2"),
    is_public: true,
    mask_request_host: "localhost",
  });
});
