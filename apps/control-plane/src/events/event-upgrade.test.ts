import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { publishEvents } from "../db/event-stream.ts";
import { listEvents } from "../db/events.ts";
import { migrate } from "../db/migrate.ts";
import { migrations } from "../db/migrations.generated.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { viewEvent } from "./event-view.ts";
import { emit } from "./outbox.ts";

test("events from before there was a stream have their places in it, and those after come after them", async () => {
  const old = await openTestDatabase(migrations.filter(({ number }) => number < 6));
  const { db } = old;
  try {
    for (const [id, sandbox, template] of [
      ["e1", "i1", null],
      ["e2", null, "base"],
      ["e3", null, null],
    ] as const) {
      await sql`INSERT INTO event (id, host_id, time_created, kind, sandbox_id, template, message)
        VALUES (${id}, 'local', now(), 'sandbox.paused', ${sandbox}, ${template}, ${id})`.execute(db);
    }
    await migrate(db, { isExclusive: true, log: silentLogger });
    const actor = systemCaller("default").actor;
    await emit(db, { kind: "team.updated", teamId: "default", subject: { kind: "team", id: "default" }, actor, message: "e4" });
    expect(await publishEvents(db, { now: new Date(), timeExpires: new Date() })).toBe(1);
    const rows = await listEvents(db, { audience: { teamId: "default", isAdmin: true }, limit: 10 });
    const views = rows.map(viewEvent).sort((a, b) => (a.position ?? 0) - (b.position ?? 0));
    expect(views.map(({ message, subject, actor: by }) => [message, subject.kind, subject.id, by.kind])).toEqual([
      ["e1", "sandbox", "i1", "host"],
      ["e2", "template", "base", "host"],
      ["e3", "host", "local", "host"],
      ["e4", "team", "default", "system"],
    ]);
    expect(views.map(({ position }) => position)).toEqual([1, 2, 3, 4]);
  } finally {
    await old.close();
  }
}, 60_000);
