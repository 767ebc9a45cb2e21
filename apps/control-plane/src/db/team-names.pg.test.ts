import { randomUUID } from "node:crypto";

import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Builds } from "../templates/builds.ts";
import { BuiltTemplates } from "../templates/built-templates.ts";
import { hostTemplateOfSnapshot, newTemplateId } from "../templates/names.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam } from "../testing/first-team.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { openTwoControlPlanes, type TwoControlPlanes } from "../testing/two-control-planes.ts";
import { ensureBuiltTemplate, listRemovals } from "./built-templates.ts";
import type { Database } from "./database.ts";
import { finishSnapshot, insertSnapshot } from "./snapshots.ts";

/** What PGlite cannot show: control planes that give the same name at once, or count the same builds. */

const why = whyNoPostgres();

describe.skipIf(why !== undefined)(`on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let both: TwoControlPlanes;
  let one: Database;
  let two: Database;
  beforeAll(async () => {
    both = await openTwoControlPlanes();
    ({ one, two } = both);
  }, 60_000);
  afterAll(async () => both?.[Symbol.asyncDispose]());
  beforeEach(async () => {
    for (const table of ["snapshot", "built_template", "template_removal"] as const) await one.db.deleteFrom(table).execute();
  });

  const rounds = 8;
  const dbOf = (index: number) => (index % 2 === 0 ? one : two).db;
  const made = { digest: "d", hasMemory: true, vcpus: 1, memoryMib: 512, diskSizeMib: 1, sizeBytes: 1 };

  async function begin(index: number, name: string, replace = false) {
    const id = randomUUID();
    const of = {
      id,
      teamId: firstTeam,
      name,
      hostId: "h",
      hostTemplate: hostTemplateOfSnapshot(id),
      hasMemory: true,
      sourceSandboxId: "i",
    };
    return { id, holder: await insertSnapshot(dbOf(index), { ...of, timeCreated: new Date() }, { replace, waitMsMax: 60_000 }) };
  }
  const finish = async (index: number, id: string) => finishSnapshot(dbOf(index), id, made, new Date(), async () => undefined);

  test("of those that want a snapshot's name at once, one gets it", async () => {
    for (let round = 0; round < rounds; round += 1) {
      const begun = await Promise.all(Array.from({ length: 6 }, async (_, index) => begin(index, `shot${round}`)));
      expect(begun.map(({ holder }) => holder ?? "got it").sort()).toEqual(["got it", ...Array.from({ length: 5 }, () => "snapshot")]);
    }
  });

  test("a name becomes a snapshot's or a built template's, never both", async () => {
    for (let round = 0; round < rounds; round += 1) {
      const name = `both${round}`;
      const [{ holder }, template] = await Promise.all([
        begin(0, `${name.toUpperCase()}:v1`),
        ensureBuiltTemplate(two.db, { id: newTemplateId(), teamId: firstTeam, name }, new Date()),
      ]);
      expect([holder === undefined, template !== undefined].filter(Boolean), `round ${round}`).toHaveLength(1);
    }
  });

  test("of those that replace one at once, the last stays, and the others are removed from hosts", async () => {
    const begun = await Promise.all(Array.from({ length: 6 }, async (_, index) => begin(index, "shot", true)));
    expect(begun.every(({ holder }) => holder === undefined)).toBe(true);
    const finished = await Promise.all(begun.map(async ({ id }, index) => finish(index, id)));
    expect(finished.every((row) => row !== undefined)).toBe(true);
    const left = await one.db.selectFrom("snapshot").select(["state", "host_template"]).execute();
    expect(left).toMatchObject([{ state: "ready" }]);
    const removals = await listRemovals(one.db, 10);
    expect(removals.sort()).toEqual(
      begun
        .map(({ id }) => hostTemplateOfSnapshot(id))
        .filter((name) => name !== left[0]?.host_template)
        .sort(),
    );
  });

  test("a team gets no more builds at once than its quota, however many control planes are asked", async () => {
    await one.db
      .updateTable("team")
      .set({ quota: JSON.stringify({ builds_at_once: 3 }) })
      .where("id", "=", firstTeam)
      .execute();
    const planes = [one, two].map(({ db }) => {
      const hosts = new Hosts([new HostLink(new FakeHost("host-1", () => 1), silentLogger)]);
      const templates = new BuiltTemplates({ db, hosts, log: silentLogger, onRemoval: () => undefined, onCancel: () => undefined });
      return new Builds({ db, templates, log: silentLogger, claimedBy: randomUUID(), poke: () => undefined });
    });
    const asked = await Promise.allSettled(
      Array.from({ length: 12 }, async (_, index) =>
        planes[index % 2]?.request({ teamId: firstTeam, name: `app${index}`, tags: [], vcpus: 1, memoryMib: 512 }),
      ),
    );
    expect(asked.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
    for (const outcome of asked) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "rate_limited" });
  });
});
