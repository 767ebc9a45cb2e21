import { eventsKeptMax, eventsKeptSec } from "@roost/contract";
import { hour, second, ServiceLoop, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { forgetEvents } from "../db/events.ts";
import { forgetStopped } from "../db/sandboxes.ts";

/** Time between two rounds in `ms` */
const intervalMs = 1 * hour;

/** Forgets sandboxes that stopped longer than `retentionSec` ago, and old events, until `signal` aborts. */
export async function runRetention(db: Db, retentionSec: number, log: Logger, signal: AbortSignal): Promise<void> {
  const loop = new ServiceLoop("retention", log, signal);
  await loop.every(intervalMs, async () => {
    const count = await forgetStopped(db, new Date(Date.now() - retentionSec * second));
    if (count > 0) log.info({ count }, "forgot sandboxes that stopped long ago");
    const eventCount = await forgetEvents(db, new Date(Date.now() - eventsKeptSec * second), eventsKeptMax);
    if (eventCount > 0) log.info({ count: eventCount }, "forgot old events");
  });
}
