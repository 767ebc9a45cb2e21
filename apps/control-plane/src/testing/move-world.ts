import type { EventKind } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { Database } from "../db/database.ts";
import { ensureHost, findHost, listHosts, moveHost, type HostRow } from "../db/hosts.ts";
import { findSandboxOfAnyTeam, insertSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { Drains } from "../hosts/drains.ts";
import { HostLink } from "../hosts/host-link.ts";
import { unknownStanding } from "../hosts/host-standing.ts";
import { Hosts } from "../hosts/hosts.ts";
import type { MoveStep } from "../moves/moves.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { FakeHost } from "./fake-host.ts";
import { plainSandbox } from "./plain-sandbox.ts";

const never = new AbortController().signal;
/** Longer than any claim or wait between tries in `ms` */
const turnMs = 40_000;
/** Turns after which everything that can be done is done */
const turnsMax = 8;

/** With which secrets of what they move are sealed */
export const moveWorldKey = "5".repeat(64);

/** Hosts without hosts, and control planes that move what is on the first of them; turned by hand, on a clock of their own. */
export class MoveWorld {
  readonly hosts: readonly FakeHost[];
  readonly database: Database;
  #offsetMs = 0;

  private constructor(database: Database, hosts: readonly FakeHost[]) {
    this.database = database;
    this.hosts = hosts;
  }

  /** On an emptied database. The first host is to be emptied by moving, unless `isDraining` is false. */
  static async start(database: Database, ids: readonly string[] = ["a", "b"]): Promise<MoveWorld> {
    for (const table of ["sandbox_move", "sandbox", "sandbox_interval", "host", "event", "operation", "stray"] as const)
      await database.db.deleteFrom(table).execute();
    const world = new MoveWorld(
      database,
      ids.map((id) => new FakeHost(id, () => 1)),
    );
    for (const id of ids) await ensureHost(database.db, id, world.now());
    return world;
  }

  now = (): Date => new Date(Date.now() + this.#offsetMs);

  later(ms: number = turnMs): void {
    this.#offsetMs += ms;
  }

  host(id: string): FakeHost {
    const found = this.hosts.find((host) => host.id === id);
    if (found === undefined) throw new Error(`no host ${id}`);
    return found;
  }

  /** A sandbox on a host, and its record. */
  async add(hostId: string, id: string, state: "running" | "paused" | "failed", more: { readonly expirySec?: number } = {}): Promise<void> {
    const host = this.host(hostId);
    const { db } = this.database;
    const given = { ...plainSandbox, id, hostId, timeCreated: this.now(), ...more };
    await insertSandbox(db, given);
    const { vcpus, memoryMib, diskSizeMib, accessToken, template } = given;
    host.add({ sandboxId: id, vcpus, memoryMib, diskSizeMib, accessToken, template });
    host.moves.contents.set(id, `what ${id} holds, which is more than one part of a file`);
    if (state === "paused") host.images.pause(id);
    if (state === "failed") host.change(id, SandboxState.FAILED, { failureReason: "a test" });
    await this.plane().reconcile();
  }

  async operate(hostId: string, state: "ready" | "draining", mode: "move" | "pause" = "move"): Promise<void> {
    const row = await this.hostRow(hostId);
    await moveHost(this.database.db, row, { state, drainMode: state === "draining" ? mode : null }, this.now());
  }

  async hostRow(hostId: string): Promise<HostRow> {
    const row = await findHost(this.database.db, hostId);
    if (row === undefined) throw new Error(`no row of host ${hostId}`);
    return row;
  }

  async record(id: string): Promise<SandboxRow> {
    const row = await findSandboxOfAnyTeam(this.database.db, id);
    if (row === undefined) throw new Error(`no record of ${id}`);
    return row;
  }

  /** Where a sandbox is, each host that has it with its state; held ones with a `!`. */
  whereIs(id: string): string[] {
    return this.hosts.flatMap((host) => {
      const sandbox = host.sandboxes.get(id);
      return sandbox === undefined ? [] : [`${host.id} ${SandboxState[sandbox.state]}${sandbox.transit === undefined ? "" : "!"}`];
    });
  }

  leftovers(): string[] {
    return this.hosts.flatMap((host) => host.moves.leftovers().map((what) => `${host.id}: ${what}`));
  }

  async events(kind: EventKind): Promise<string[]> {
    const rows = await this.database.db.selectFrom("event").select("sandbox_id").where("kind", "=", kind).execute();
    return rows.map((row) => row.sandbox_id ?? "").sort();
  }

  /** A control plane. */
  plane(onMoveStep?: (step: MoveStep, sandboxId: string) => Promise<void> | void) {
    const { now } = this;
    const { database } = this;
    const links = this.hosts.map((host) => new HostLink(host, silentLogger));
    const hosts = new Hosts(links, now);
    const sandboxes = new Sandboxes({
      database,
      hosts,
      log: silentLogger,
      onEnded: () => undefined,
      secretKey: moveWorldKey,
      roomWaitMs: 0,
      now,
      ...(onMoveStep === undefined ? {} : { onMoveStep }),
    });
    const moveAway: NonNullable<ConstructorParameters<typeof Drains>[0]["moveAway"]> = (row, signal) =>
      sandboxes.moves.moveAway(row, signal);
    const drains = new Drains({ db: database.db, hosts, moveAway, log: silentLogger, now });
    const reconcilers = links.map(
      (host) => new Reconciler({ db: database.db, host, isExclusive: false, onEnded: () => undefined, log: silentLogger, now }),
    );
    const lookAtHosts = async () => {
      const rows = await listHosts(database.db);
      for (const { id, state, tags } of rows) hosts.setStanding(id, { ...unknownStanding, state, tags });
      return rows;
    };
    const reconcile = async () => {
      for (const [index, reconciler] of reconcilers.entries()) if (this.hosts[index]?.isUnreachable === false) await reconciler.reconcile();
    };
    const move = async () => {
      for (const row of await lookAtHosts()) if (row.state === "draining") await drains.drainOnce(row, never);
      await sandboxes.moves.round(never);
      await sandboxes.moves.idle();
    };
    return { sandboxes, hosts, drains, lookAtHosts, reconcile, move };
  }

  /** Everything that a control plane does, until there is nothing to do any more. */
  async settle(plane = this.plane(), turns = turnsMax): Promise<void> {
    for (let turn = 0; turn < turns; turn += 1) {
      this.later();
      await plane.move();
      await plane.reconcile();
    }
  }
}
