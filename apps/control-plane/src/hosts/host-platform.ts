import { hour, type Logger, OptionError, second, SecretBox, ServiceLoop, withDeadline } from "@roost/kit";

import type { Audit } from "../audit/audit.ts";
import type { Database } from "../db/database.ts";
import { ensureHost } from "../db/hosts.ts";
import type { ControlPlaneOptions } from "../options.ts";
import { Drains, type DrainsDependencies } from "./drains.ts";
import { Heartbeats } from "./heartbeats.ts";
import { HostAdministration } from "./host-administration.ts";
import { HostDirectory } from "./host-directory.ts";
import { HostLink, type HostDependency } from "./host-link.ts";
import type { HostPort } from "./host-port.ts";
import { HostRemoval } from "./host-removal.ts";
import { Hosts } from "./hosts.ts";
import type { ControlPlaneIdentity } from "./own-identity.ts";
import type { Registrations } from "./registrations.ts";

/** Longest wait at the start in `ms` for the hosts in this process to say what they are; without it they are asked again in the background */
const firstBeatTimeoutMs = 5 * second;
/** Time between two looks at the age of this control plane's certificate in `ms` */
const identityCheckMs = 1 * hour;

export interface HostPlatformDependencies {
  readonly options: Pick<ControlPlaneOptions, "hostsAddress" | "hostsPort" | "hostHeartbeatSec" | "hostLeaseSec">;
  readonly database: Database;
  /** Hosts that are part of this process */
  readonly inProcess: readonly HostDependency[];
  readonly audit: Audit;
  readonly secretKey: string;
  /** Called for each sandbox that is over because its host is. */
  readonly onEnded: (sandboxId: string) => void;
  readonly moveAway?: DrainsDependencies["moveAway"];
  readonly log: Logger;
  readonly now?: () => Date;
}

interface Certified {
  readonly identity: ControlPlaneIdentity;
  readonly registrations: Registrations;
}

/** All that has to do with hosts: which there are, who they are, whether they are there. */
export class HostPlatform {
  readonly hosts: Hosts;
  readonly administration: HostAdministration;
  readonly heartbeats: Heartbeats;
  readonly directory: HostDirectory;
  readonly drains: Drains;
  readonly #deps: HostPlatformDependencies;
  readonly #local: readonly HostLink[];
  readonly #port: HostPort | undefined;
  readonly #identity: () => Promise<ControlPlaneIdentity>;

  private constructor(
    deps: HostPlatformDependencies,
    parts: Pick<HostPlatform, "hosts" | "administration" | "heartbeats" | "directory" | "drains"> & {
      readonly local: readonly HostLink[];
      readonly port: HostPort | undefined;
      readonly identity: () => Promise<ControlPlaneIdentity>;
    },
  ) {
    this.#deps = deps;
    this.hosts = parts.hosts;
    this.administration = parts.administration;
    this.heartbeats = parts.heartbeats;
    this.directory = parts.directory;
    this.drains = parts.drains;
    this.#local = parts.local;
    this.#port = parts.port;
    this.#identity = parts.identity;
  }

  /** Records the hosts in this process, finds those that are recorded, and builds the host port if there is to be one. */
  static async open(deps: HostPlatformDependencies): Promise<HostPlatform> {
    const { database, options, log, audit } = deps;
    const { db } = database;
    const now = deps.now ?? (() => new Date());
    if (options.hostLeaseSec <= options.hostHeartbeatSec) {
      throw new OptionError(
        `ROOST_HOST_LEASE_SEC=${options.hostLeaseSec} is not valid: a lease has to outlast a heartbeat or more (ROOST_HOST_HEARTBEAT_SEC=${options.hostHeartbeatSec})`,
      );
    }
    const times = { heartbeatMs: options.hostHeartbeatSec * second, leaseMs: options.hostLeaseSec * second };
    const local = deps.inProcess.map((host) => new HostLink(host, log));
    const hosts = new Hosts(local, now);
    const onChanged = () => {
      void directory.refresh().catch((error: unknown) => log.info({ err: error }, "hosts are looked at again in a moment"));
      drains.poke();
    };
    const certified = once(async () => openCertified(deps, { leaseMs: times.leaseMs, onRegistered: onChanged, now }));
    const identity = async () => (await certified()).identity;
    const directory = new HostDirectory({ db, isExclusive: database.isExclusive, hosts, identity, log, now });
    const drains = new Drains({ db, hosts, log, now, ...(deps.moveAway === undefined ? {} : { moveAway: deps.moveAway }) });
    const heartbeats = new Heartbeats({ db, times, log, now });
    const removal = new HostRemoval({ db, hosts, audit, inProcess: new Set(local.map(({ id }) => id)), onEnded: deps.onEnded, log, now });
    const hasPort = options.hostsPort !== undefined;
    const registrations = hasPort ? (await certified()).registrations : undefined;
    const administration = new HostAdministration({ db, audit, registrations, removal, onChanged, log, now });
    const port = registrations === undefined ? undefined : await buildPort({ identity: await identity(), registrations, heartbeats, log });

    for (const { id } of local) await ensureHost(db, id, now());
    const beats = local.map(async (link) => heartbeats.beatFor(link.id, (await link.describe()).info));
    await withDeadline("what the host is", firstBeatTimeoutMs, Promise.allSettled(beats)).catch(() => undefined); // asked again by the loop
    await directory.refresh();
    return new HostPlatform(deps, { hosts, administration, heartbeats, directory, drains, local, port, identity });
  }

  /** Answers the host port's port; undefined when there is none. */
  async listen(): Promise<number | undefined> {
    const { hostsAddress, hostsPort } = this.#deps.options;
    if (this.#port === undefined || hostsPort === undefined) return undefined;
    const port = await this.#port.listen(hostsAddress, hostsPort);
    this.#deps.log.info({ address: hostsAddress, port }, "the host port listens");
    return port;
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([
      this.directory.run(signal),
      this.drains.run(signal),
      this.heartbeats.runMonitor(signal),
      ...this.#local.map((link) => this.heartbeats.runFor(link, signal)),
      this.#renewIdentity(signal),
    ]);
  }

  /** Where there is anybody to show it to. */
  async #renewIdentity(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("own certificate", this.#deps.log, signal);
    await loop.every(identityCheckMs, async () => {
      if (this.#port !== undefined || this.directory.hasRemotes) await (await this.#identity()).renewWhenDue();
    });
  }

  /** Ends the host port; hosts see a control plane that is away. */
  async closePort(): Promise<void> {
    await this.#port?.close();
  }

  close(): void {
    this.directory.close();
  }
}

/** Loaded only where there are hosts on other machines: what makes certificates is a tenth of a second of a start. */
async function openCertified(
  { database, audit, secretKey, log }: HostPlatformDependencies,
  parts: { readonly leaseMs: number; readonly onRegistered: () => void; readonly now: () => Date },
): Promise<Certified> {
  const [{ openAuthority }, { ControlPlaneIdentity }, { Registrations: RegistrationsOf }] = await Promise.all([
    import("./open-authority.ts"),
    import("./own-identity.ts"),
    import("./registrations.ts"),
  ]);
  const authority = await openAuthority(database.db, new SecretBox(secretKey, "hosts' certificate authority"), parts.now());
  const identity = await ControlPlaneIdentity.make(authority, parts.now);
  return { identity, registrations: new RegistrationsOf({ db: database.db, authority, audit, log, ...parts }) };
}

async function buildPort(deps: Parameters<typeof HostPort.build>[0]): Promise<HostPort> {
  const { HostPort: Port } = await import("./host-port.ts");
  return Port.build(deps);
}

/** The same promise for all who ask; a failure is not kept. */
function once<Value>(make: () => Promise<Value>): () => Promise<Value> {
  let made: Promise<Value> | undefined;
  return async () => {
    made ??= make().catch((error: unknown) => {
      made = undefined;
      throw error;
    });
    return made;
  };
}
