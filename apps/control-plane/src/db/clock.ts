import { OptionError, second } from "@roost/kit";
import { sql, type Kysely } from "kysely";

import type { Tables } from "./schema.ts";

/**
 * Leases, claims and ends of time are written by one control plane and judged by another, each by its own clock. The shortest of them are a few heartbeats: with clocks this far apart, in ms, they still say what they mean.
 */
export const clockDifferenceMaxMs = 5 * second;

/** How far the clock of this machine is ahead of the database's, in ms; exact to half of what the question took. */
export async function clockAheadMs(db: Kysely<Tables>, now: () => number = Date.now): Promise<number> {
  const asked = now();
  const { rows } = await sql<{ ms: number }>`SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS ms`.execute(db);
  const middle = (asked + now()) / 2;
  return rows[0] === undefined ? 0 : middle - rows[0].ms;
}

/** Throws `OptionError` when clocks are further apart than leases bear. */
export async function requireSameTime(db: Kysely<Tables>, now: () => number = Date.now): Promise<void> {
  const aheadMs = await clockAheadMs(db, now);
  if (Math.abs(aheadMs) <= clockDifferenceMaxMs) return;
  const sec = (Math.abs(aheadMs) / second).toFixed(1);
  throw new OptionError(
    `the clock of this machine is ${sec} s ${aheadMs > 0 ? "ahead of" : "behind"} the database server's (at most ${clockDifferenceMaxMs / second} s may be between them): have both set by NTP, e.g. with chrony, and start again`,
  );
}
