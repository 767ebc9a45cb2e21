import { poll, silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import type { Database, Db } from "../db/database.ts";
import { publishEvents } from "../db/event-stream.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { openTwoControlPlanes, type TwoControlPlanes } from "../testing/two-control-planes.ts";
import { EventFeed } from "./event-feed.ts";
import { emit } from "./outbox.ts";

const why = whyNoPostgres();
const audience = { teamId: "default", isAdmin: false };
const { actor } = systemCaller("default");

describe.skipIf(why !== undefined)(`events on PostgreSQL${why === undefined ? "" : ` (${why})`}`, () => {
  let both: TwoControlPlanes;
  /** Two control planes on one database */
  let one: Database;
  let two: Database;
  beforeAll(async () => {
    both = await openTwoControlPlanes();
    ({ one, two } = both);
  }, 60_000);
  afterAll(async () => both?.[Symbol.asyncDispose]());
  beforeEach(async () => void (await one.db.deleteFrom("event").execute()));

  const tell = async (db: Db, sandboxId: string, message: string) =>
    emit(db, { kind: "sandbox.paused", teamId: "default", subject: { kind: "sandbox", id: sandboxId }, actor, message });
  const publish = async (db: Db) => publishEvents(db, { now: new Date(), timeExpires: new Date() });
  /** All there is after a position, and the new position. */
  async function read(feed: EventFeed, after: number): Promise<{ readonly messages: string[]; readonly position: number }> {
    const messages: string[] = [];
    let position = after;
    await feed.look();
    while (position < (await feed.position())) {
      const stretch = await feed.next({ audience }, position, 0, AbortSignal.abort());
      messages.push(...stretch.events.map((row) => row.message));
      position = stretch.position;
    }
    return { messages, position };
  }

  test("one that began earlier and is committed later comes later, and is not passed over", async () => {
    const feed = new EventFeed({ db: two.db, log: silentLogger });
    await feed.look();
    let position = await feed.position();
    let commit = () => {};
    let isTold = () => {};
    const told = new Promise<void>((resolve) => (isTold = resolve));
    const slow = one.db.transaction().execute(async (transaction) => {
      await tell(transaction, "i1", "slow");
      isTold();
      await new Promise<void>((resolve) => (commit = resolve));
    });
    await told;
    await tell(one.db, "i2", "quick");
    const first = await read(feed, position);
    expect(first.messages).toEqual(["quick"]);
    position = first.position;
    commit();
    await slow;
    // The numbers that were drawn say otherwise: who would go on after the highest one that it saw would never see the slow one
    const numbers = await one.db.selectFrom("event").select("message").orderBy("number").execute();
    expect(numbers.map(({ message }) => message)).toEqual(["slow", "quick"]);
    expect((await read(feed, position)).messages).toEqual(["slow"]);
  });

  test("publishers take turns, and each event is published once", async () => {
    for (let index = 0; index < 600; index += 1) await tell(one.db, `i${index % 7}`, String(index));
    const counts = await Promise.all([one, two, one, two, one, two].map(async ({ db }) => publish(db)));
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(600);
    const rows = await one.db.selectFrom("event").select(["message", "position"]).orderBy("position").execute();
    expect(rows.map(({ message }) => message)).toEqual(Array.from({ length: 600 }, (_, index) => String(index)));
    const [first] = rows;
    expect(rows.map(({ position }) => (position ?? 0) - (first?.position ?? 0))).toEqual(Array.from({ length: 600 }, (_, index) => index));
  });

  test("a follower that is cut off again and again, and goes on with either control plane, sees each event once and those of a sandbox in order", async () => {
    const seed = Number(process.env["SEED"] ?? Math.trunc(Math.random() * 2 ** 31));
    const random = randomOf(seed);
    const feeds = [new EventFeed({ db: one.db, log: silentLogger }), new EventFeed({ db: two.db, log: silentLogger })];
    for (const feed of feeds) await feed.look();
    let position = Math.max(...(await Promise.all(feeds.map(async (feed) => feed.position()))));

    const committed: string[] = [];
    const write = async (writer: number) => {
      for (let turn = 0; turn < 25; turn += 1) {
        const { db } = random() < 0.5 ? one : two;
        const isUndone = random() < 0.25;
        const waitSec = random() * 0.01;
        const messages = [0, 1].map((part) => `${writer} ${turn} ${part}`);
        const work = db.transaction().execute(async (transaction) => {
          for (const message of messages) {
            await tell(transaction, `i${writer}`, message);
            await sql`SELECT pg_sleep(${waitSec})`.execute(transaction); // others commit meanwhile
          }
          if (isUndone) throw new Error("undone");
        });
        await work.then(
          () => committed.push(...messages),
          () => undefined,
        );
      }
    };
    const seen: string[] = [];
    const writing = new AbortController();
    const follow = async () => {
      while (!writing.signal.aborted) {
        const feed = feeds[random() < 0.5 ? 0 : 1];
        if (feed === undefined) continue;
        const { messages, position: next } = await read(feed, position);
        seen.push(...messages);
        position = next;
      }
    };
    const following = follow();
    await Promise.all(Array.from({ length: 6 }, async (_, writer) => write(writer)));
    writing.abort();
    await following;
    await poll({ what: `all of ${committed.length} events`, timeoutMs: 10_000, intervalMs: 2 }, async () => {
      const { messages, position: next } = await read(feeds[0] as EventFeed, position);
      seen.push(...messages);
      position = next;
      return seen.length >= committed.length ? true : undefined;
    });
    expect([...seen].sort(), `SEED=${seed} replays this`).toEqual([...committed].sort());
    for (let writer = 0; writer < 6; writer += 1) {
      const of = (all: string[]) => all.filter((message) => message.startsWith(`${writer} `));
      expect(of(seen), `of writer ${writer}; SEED=${seed} replays this`).toEqual(of(committed));
    }
  }, 60_000);
});

/** Mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
