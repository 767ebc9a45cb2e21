import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import type { Database } from "../db/database.ts";
import { publishEvents } from "../db/event-stream.ts";
import { forgetEvents } from "../db/events.ts";
import { EventStreams } from "../http/event-stream.ts";
import { TestEventSource } from "../testing/event-source.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { EventFeed } from "./event-feed.ts";
import { emit } from "./outbox.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

const { actor } = systemCaller("default");
const audience = { teamId: "default", isAdmin: false };
const happen = async (message: string) =>
  emit(database.db, { kind: "sandbox.paused", teamId: "default", subject: { kind: "sandbox", id: "i1" }, actor, message });
const publish = async () => publishEvents(database.db, { now: new Date(), timeExpires: new Date() });

test("who is behind what this process remembers is told what was forgotten before it could be read", async () => {
  const feed = new EventFeed({ db: database.db, log: silentLogger });
  const after = await feed.position();
  for (const message of ["one", "two", "three"]) await happen(message);
  await publish();
  await feed.look(); // from here on it remembers; those are before
  const whole = await feed.next({ audience }, after, 0, AbortSignal.abort());
  expect(whole).toMatchObject({ position: after + 3, forgottenUntil: undefined });
  expect(whole.events.map(({ message }) => message)).toEqual(["one", "two", "three"]);
  await forgetEvents(database.db, new Date(0), 1);
  const rest = await feed.next({ audience }, after, 0, AbortSignal.abort());
  expect(rest).toMatchObject({ position: after + 3, forgottenUntil: after + 2 });
  expect(rest.events.map(({ message }) => message)).toEqual(["three"]);
  expect(await feed.next({ audience }, after + 2, 0, AbortSignal.abort())).toMatchObject({ forgottenUntil: undefined });
});

test("a stream that is open says once what its client, which was slow, has missed for good", async () => {
  // one that does not look remembers nothing: it reads the table, as for whoever is far behind
  const feed = new EventFeed({ db: database.db, log: silentLogger });
  const streams = new EventStreams(feed, 20);
  const gone = new AbortController();
  const server = createServer((_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const request = { wish: { audience }, after: undefined, revoked: async () => new Promise<void>(() => undefined) };
    void streams.serve(request, () => response, gone.signal);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await using stream = await (await TestEventSource.open(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`, {})).opened();
    const begin = await feed.position();
    // all at once, so that the stream sees none of it half-way
    await database.db.transaction().execute(async (transaction) => {
      await emit(transaction, {
        kind: "sandbox.paused",
        teamId: "default",
        subject: { kind: "sandbox", id: "i1" },
        actor,
        message: "left",
      });
      await sql`UPDATE event SET position = ${begin + 3} WHERE position IS NULL`.execute(transaction);
      await sql`UPDATE event_stream SET position = ${begin + 3}`.execute(transaction);
      await sql`INSERT INTO event_forgotten VALUES ('default', ${begin + 2}) ON CONFLICT (team_id) DO UPDATE SET position = ${begin + 2}`.execute(
        transaction,
      );
    });
    expect(await stream.until(1)).toEqual(["left"]);
    await happen("next");
    await publish();
    expect(await stream.until(2)).toEqual(["left", "next"]);
    const gaps = stream.messages.filter(({ type }) => type === "gap");
    expect(gaps).toMatchObject([{ data: { after: begin, until: begin + 2 } }]);
    expect(
      stream.messages.findIndex(({ type }) => type === "gap"),
      "before what comes after it",
    ).toBeLessThan(stream.messages.findIndex(({ data }) => data["message"] === "left"));
  } finally {
    gone.abort();
    await streams.drain();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
