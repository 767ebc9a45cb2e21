import { sql } from "kysely";

import type { Db } from "./database.ts";

/** What is counted of the whole platform, by state; states are a handful each. */
export interface PlatformCount {
  readonly of: "operation" | "delivery" | "host" | "build";
  readonly state: string;
  readonly count: number;
}

/** What is under way, and what failed within the last hour: each has an index, so this is quick however much there was before. */
export async function countPlatform(db: Db, now: Date): Promise<PlatformCount[]> {
  const hourAgo = new Date(now.getTime() - 3_600_000);
  const { rows } = await sql<PlatformCount>`
    SELECT 'operation' AS of, 'running' AS state, count(*)::int AS count FROM operation WHERE state = 'running'
    UNION ALL SELECT 'operation', 'failed', count(*)::int FROM operation WHERE state = 'failed' AND time_ended > ${hourAgo}::timestamptz
    UNION ALL SELECT 'delivery', 'pending', count(*)::int FROM delivery WHERE state = 'pending'
    UNION ALL SELECT 'delivery', 'failed', count(*)::int FROM delivery WHERE state = 'failed' AND time_ended > ${hourAgo}::timestamptz
    UNION ALL SELECT 'build', state, count(*)::int FROM build WHERE state IN ('waiting', 'building') GROUP BY state
    UNION ALL SELECT 'host', CASE WHEN state <> 'pending' AND coalesce(time_lease_ends < ${now}::timestamptz, true) THEN 'unreachable' ELSE state END, count(*)::int
      FROM host GROUP BY 2`.execute(db);
  return rows;
}
