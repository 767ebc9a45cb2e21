import { SecretBox, type Logger } from "@roost/kit";

import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { EventFeed } from "../events/event-feed.ts";
import { EventStreams } from "../http/event-stream.ts";
import { AddressGuard } from "./address-guard.ts";
import type { AddressRange } from "./address-ranges.ts";
import { Channels } from "./channels.ts";
import { Deliverer } from "./deliverer.ts";
import { Deliveries } from "./deliveries.ts";

/** What secrets of channels are sealed for; a constant for ever */
const sealPurpose = "channels";

export interface ChannelServicesDependencies {
  readonly db: Db;
  readonly audit: Audit;
  readonly secretKey: string;
  /** Addresses that are not public and may be used nevertheless */
  readonly webhookAllowedRanges: readonly AddressRange[];
  readonly log: Logger;
  /** Counts tries, for metrics. */
  readonly onAttempt?: (isTaken: boolean) => void;
}

/** The stream of events, and all that follows it. */
export interface ChannelServices {
  readonly channels: Channels;
  readonly deliveries: Deliveries;
  readonly eventStreams: EventStreams;
  /** Publishes and sends until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

export function createChannelServices(deps: ChannelServicesDependencies): ChannelServices {
  const { db, audit, log } = deps;
  const box = new SecretBox(deps.secretKey, sealPurpose);
  const guard = new AddressGuard(deps.webhookAllowedRanges);
  const deliverer = new Deliverer({ db, box, guard, log, ...(deps.onAttempt === undefined ? {} : { onAttempt: deps.onAttempt }) });
  const feed = new EventFeed({ db, log, onPublished: () => deliverer.poke() });
  return {
    channels: new Channels({ db, box, guard, audit, log }),
    deliveries: new Deliveries({ db, poke: () => deliverer.poke() }),
    eventStreams: new EventStreams(feed),
    run: async (signal) => {
      await Promise.all([feed.run(signal), deliverer.run(signal)]);
    },
  };
}
