import { silentLogger } from "@roost/kit";

import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Operations } from "../operations/operations.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import type { FakeHost } from "../testing/fake-host.ts";
import type { SharedDatabase } from "./faulty-database.ts";
import { faultyTransport, type Network } from "./faulty-transport.ts";
import { Life } from "./life.ts";

export interface ReplicaParts {
  readonly database: SharedDatabase;
  readonly hosts: readonly FakeHost[];
  readonly network: Network;
  readonly onBusy: (change: 1 | -1) => void;
  readonly breaks: () => "before" | "after" | undefined;
  readonly now: () => Date;
}

/** A control plane: the real services, without HTTP and without timers. Its loops are turned by hand. */
export class Replica {
  readonly life: Life;
  readonly sandboxes: Sandboxes;
  readonly reconcilers: readonly Reconciler[];

  constructor({ database, hosts, network, onBusy, breaks, now }: ReplicaParts) {
    this.life = new Life(onBusy, breaks);
    const own = database.openFor(this.life);
    const links = hosts.map(
      (host) =>
        new HostLink(
          { id: host.id, tunnels: host.tunnels, transport: faultyTransport(host.transport, host.id, this.life, network) },
          silentLogger,
        ),
    );
    const operations = new Operations({ database: own, log: silentLogger, replayWaitMs: 0, now });
    this.sandboxes = new Sandboxes({
      database: own,
      hosts: new Hosts(links, now),
      operations,
      roomWaitMs: 0,
      log: silentLogger,
      onEnded: () => undefined,
      now,
    });
    this.reconcilers = links.map(
      (host) => new Reconciler({ db: own.db, host, isExclusive: false, onEnded: () => undefined, log: silentLogger, now }),
    );
  }
}
