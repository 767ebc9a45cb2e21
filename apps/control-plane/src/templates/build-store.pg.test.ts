import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { deleteBuiltTemplate } from "../db/built-templates.ts";
import { lockBuild } from "../db/builds.ts";
import type { Database } from "../db/database.ts";
import { firstTeam } from "../testing/first-team.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { openTwoControlPlanes, type TwoControlPlanes } from "../testing/two-control-planes.ts";
import { appendBuildLog, claimBuild, finishBuild } from "./build-store.ts";
import { hostTemplateOf, newTemplateId } from "./names.ts";

/** What PGlite cannot show: several control planes that work at the builds of one database. */

const why = whyNoPostgres();

describe.skipIf(why !== undefined)(`on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let both: TwoControlPlanes;
  let one: Database;
  let two: Database;
  beforeAll(async () => {
    both = await openTwoControlPlanes();
    ({ one, two } = both);
  });
  afterAll(async () => both?.[Symbol.asyncDispose]());

  const now = new Date("2026-02-03T04:05:06.789Z");
  const claimEnds = new Date(now.getTime() + 60_000);

  async function newTemplate(): Promise<string> {
    const id = newTemplateId();
    await one.db
      .insertInto("built_template")
      .values({ id, team_id: firstTeam, name: id, is_public: false, time_created: now, time_updated: now })
      .execute();
    return id;
  }

  async function newBuild(templateId: string, minute = 0): Promise<string> {
    const id = randomUUID();
    const time = new Date(now.getTime() + minute * 60_000);
    await one.db
      .insertInto("build")
      .values({
        id,
        team_id: firstTeam,
        template_id: templateId,
        state: "waiting",
        tags: '["default"]',
        recipe: "{}",
        vcpus: 1,
        memory_mib: 512,
        time_created: time,
      })
      .execute();
    return id;
  }

  test("each build is taken on by one of them", async () => {
    const template = await newTemplate();
    const ids = await Promise.all(Array.from({ length: 20 }, async () => newBuild(template)));
    const claims = await Promise.all(
      Array.from({ length: 40 }, async (_, index) =>
        claimBuild((index % 2 === 0 ? one : two).db, { claimedBy: index % 2 === 0 ? "one" : "two", now, claimEnds }),
      ),
    );
    const claimed = claims.flatMap((row) => (row === undefined ? [] : [row.id]));
    expect(new Set(claimed).size).toBe(claimed.length);
    for (let row = await claimBuild(one.db, { claimedBy: "one", now, claimEnds }); row !== undefined;) {
      claimed.push(row.id);
      row = await claimBuild(one.db, { claimedBy: "one", now, claimEnds });
    }
    expect(claimed.sort()).toEqual(ids.sort());
  });

  test("of builds that are ready at once, the later one has the tag, whatever the order", async () => {
    for (let round = 0; round < 10; round += 1) {
      const template = await newTemplate();
      const ids = [await newBuild(template, 1), await newBuild(template, 2)];
      const rows = [
        await claimBuild(one.db, { claimedBy: "one", now, claimEnds }),
        await claimBuild(two.db, { claimedBy: "two", now, claimEnds }),
      ];
      await Promise.all(
        rows.map(async (row, index) => {
          if (row === undefined) throw new Error("nothing to claim");
          const end = { state: "ready", hostTemplate: hostTemplateOf(row.id), sizeBytes: 1, resultKey: "same" } as const;
          return finishBuild((index % 2 === round % 2 ? one : two).db, row, end, now);
        }),
      );
      const tag = await one.db.selectFrom("template_tag").selectAll().where("template_id", "=", template).executeTakeFirst();
      expect(tag?.build_id).toBe(ids[1]);
    }
  });

  test("lines of a log have numbers without gaps, whoever writes them", async () => {
    const id = await newBuild(await newTemplate());
    await claimBuild(one.db, { claimedBy: "one", now, claimEnds });
    const line = { time: now, level: "info", step: null, message: "x" } as const;
    await Promise.all(Array.from({ length: 20 }, async (_, index) => appendBuildLog((index % 2 === 0 ? one : two).db, id, [line, line])));
    const rows = await one.db.selectFrom("build_log").select("number").where("build_id", "=", id).orderBy("number").execute();
    expect(rows.map(({ number }) => number)).toEqual(Array.from({ length: 40 }, (_, index) => index));
  });

  test("of a delete and a sandbox that race, the template goes or the sandbox comes, never both", async () => {
    for (let round = 0; round < 20; round += 1) {
      const template = await newTemplate();
      const id = await newBuild(template);
      const row = await claimBuild(one.db, { claimedBy: "one", now, claimEnds });
      if (row === undefined) throw new Error("nothing to claim");
      await finishBuild(one.db, row, { state: "ready", hostTemplate: hostTemplateOf(id), sizeBytes: 1, resultKey: "same" }, now);
      const sandboxId = `i${randomUUID().replaceAll("-", "").slice(0, 20)}`;
      const create = async () =>
        one.db.transaction().execute(async (transaction) => {
          if (!(await lockBuild(transaction, id))) return false;
          await transaction
            .insertInto("sandbox")
            .values({
              id: sandboxId,
              team_id: firstTeam,
              host_id: "h",
              template: "t",
              vcpus: 1,
              memory_mib: 512,
              disk_size_mib: 1,
              timeout_sec: 0,
              metadata: "{}",
              access_token: "x",
              state: "creating",
              generation: 0,
              versions: "{}",
              time_created: now,
              time_last_active: now,
              time_state_updated: now,
              auto_resume: false,
              checkpoint_interval_sec: 0,
              has_memory: false,
              expiry_sec: 0,
              expiry_action: "delete",
              expiry_memory: true,
              is_secure: true,
              network: "{}",
              template_build_id: id,
            })
            .execute();
          return true;
        });
      const remove = async () => (await deleteBuiltTemplate(two.db, template, hostTemplateOf, now)) === undefined;
      const [first, second] = await Promise.all(round % 2 === 0 ? [create(), remove()] : [remove(), create()]);
      expect([first, second].filter(Boolean)).toHaveLength(1);
    }
  });
});
