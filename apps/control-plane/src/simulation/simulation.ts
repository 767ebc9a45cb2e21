import { hour, minute, second } from "@roost/kit";
import { SeededRandom } from "@roost/testing";

import type { Sandbox } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { observedFrom } from "../hosts/observed.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { Expectations } from "./expectations.ts";
import type { SharedDatabase } from "./faulty-database.ts";
import { fates, type Fate } from "./faulty-transport.ts";
import { HostHistory } from "./host-history.ts";
import { send, type Intent } from "./intents.ts";
import { isDrain, Replica, type HostAim } from "./replica.ts";

export interface SimulationOptions {
  readonly seed: number;
  readonly replicas?: number;
  readonly hosts?: number;
  /** Things that happen before everything heals */
  readonly steps?: number;
}

/** What is on its way, or will happen by itself. */
interface Pending {
  readonly time: number;
  readonly what: string;
  readonly run: () => Promise<unknown>;
}

/** A request of a client that was not answered for good. */
interface Progress {
  isSent: boolean;
  /** How many drains there had been when it was first sent, of any host, and how many that move */
  readonly drains: number;
  readonly moves: number;
}

/** Of messages to hosts, and of queries, that do not simply get through */
const faultRate = 0.35;
const databaseFaultRate = 0.02;
/** Steps that a process has left when it is to be killed: a create has about this many */
const stepsLeftMax = 24;
/** Turns of the event loop in which nothing is asked of the database until everything waits: a call to a host and its answer take a few */
const quietTurns = 8;
/** What a sandbox holds, which has to be so wherever it is. */
export function contentOf(sandboxId: string): string {
  return sandboxId.slice(-6);
}

/** Rounds in which everything has to become quiet: an operation whose host was away is waited for longest */
const healingRounds = 20;

/**
 * Control planes on one database and hosts without a host, on a clock of their own; messages between them are lost, late, repeated and overtake each other, and each side is killed at
 * any step, hosts also in the midst of a change. Clients send each request until it is answered; hosts pause and checkpoint of themselves and lose VMs, operators cordon and drain them. Then everything heals, and what
 * is left must be what clients were told (./violations.ts).
 *
 * What happens is decided by the seed, if ids are (./seeded-ids.ts).
 */
export class Simulation {
  readonly hosts: readonly FakeHost[];
  readonly expectations = new Expectations();
  /** What really happened, by host */
  readonly histories = new Map<string, HostHistory>();
  /** Keys of requests whose answers were to be in the audit log, and are */
  readonly audited = new Set<string>();
  /** What happened, newest last */
  readonly log: string[] = [];
  readonly database: SharedDatabase;
  readonly #random: SeededRandom;
  readonly #replicaCount: number;
  readonly #stepCount: number;
  readonly #intents = new Map<Intent, Progress>();
  #toAudit: string[] = [];
  /** Hosts that an operator drains, as far as is known */
  readonly #draining = new Map<string, "pause" | "move">();
  #drains = 0;
  #moves = 0;
  readonly #unreachable = new Map<string, number>();
  #replicas: Replica[] = [];
  #pending: Pending[] = [];
  #busy = 0;
  /** Hosts are emptied by moving what is on them, more often than others are drained */
  readonly #isMoving: boolean;
  #nowMs = Date.UTC(2030, 0, 1);
  #isHealed = false;
  #keys = 0;

  constructor(database: SharedDatabase, options: SimulationOptions) {
    this.database = database;
    this.#random = new SeededRandom(options.seed);
    this.#replicaCount = options.replicas ?? 2;
    this.#isMoving = (options.hosts ?? 2) > 1 && this.#random.next() < 0.5;
    this.#stepCount = options.steps ?? (this.#isMoving ? 80 : 40);
    this.hosts = Array.from({ length: options.hosts ?? 2 }, (_, index) => this.#newHost(`host-${index}`));
    this.#replicas = Array.from({ length: this.#replicaCount }, () => this.#newReplica());
  }

  get replica(): Replica {
    return this.#random.pick(this.#replicas as [Replica, ...Replica[]]);
  }

  readonly #now = () => new Date(this.#nowMs);

  #newHost(id: string): FakeHost {
    const host = new FakeHost(
      id,
      () => 1,
      () => this.#nowMs,
    );
    const history = new HostHistory(id, this.#now);
    this.histories.set(id, history);
    host.moves.onLeave = (sandboxId) => history.left(sandboxId);
    host.takes = async () => this.#takes(id);
    host.tell = (event) => {
      if (event.case === "sandbox") this.#changed(history, event.value);
      if (event.case === "removedSandboxId") history.removed(event.value);
      const copies = this.#isHealed ? 1 : this.#random.integer(3); // lost, told, told twice
      for (let copy = 0; copy < copies; copy += 1) {
        if (event.case === "sandbox") {
          const observed = observedFrom(structuredClone(event.value), id);
          this.#soon(`${id} says ${observed.id} is ${observed.state}`, async () => this.replica.sandboxes.observe(observed));
        } else if (event.case === "removedSandboxId") {
          const removed = event.value;
          this.#soon(`${id} says ${removed} is gone`, async () => this.replica.sandboxes.observeRemoved(removed, id));
        }
      }
    };
    return host;
  }

  /** Each sandbox holds what it was created with; one that comes from elsewhere has a past there. */
  #changed(history: HostHistory, sandbox: Sandbox): void {
    const id = sandbox.spec?.sandboxId ?? "";
    const { transit } = sandbox;
    const from = this.hosts.find((host) => {
      const other = host.sandboxes.get(id)?.transit;
      return other?.moveId === transit?.moveId && other?.arriving === false;
    });
    if (transit?.arriving !== true)
      for (const { sandboxes, moves } of this.hosts)
        if (sandboxes.has(id) && !moves.contents.has(id)) moves.contents.set(id, contentOf(id));
    history.changed(id, sandbox, () => this.histories.get(from?.id ?? "")?.phases.get(id) ?? []);
  }

  #newReplica(): Replica {
    return new Replica({
      database: this.database,
      hosts: this.hosts,
      network: {
        fate: (hostId) => this.#fate(hostId),
        later: async (what, work) => this.#later(what, work),
      },
      onBusy: (change) => (this.#busy += change),
      breaks: () => this.#breaks(),
      now: this.#now,
      onExpired: (sandboxId) => this.expectations.expired(sandboxId, this.#nowMs),
    });
  }

  /** What a host does takes some time or none; it may be killed meanwhile. */
  async #takes(hostId: string): Promise<void> {
    if (this.#isHealed || this.#random.next() < 0.5) return;
    await this.#later(`work of ${hostId}`, async () => undefined);
  }

  #breaks(): "before" | "after" | undefined {
    if (this.#isHealed || this.#random.next() >= databaseFaultRate) return undefined;
    return this.#random.pick(["before", "after"] as const);
  }

  #fate(hostId: string): Fate {
    if (this.#isHealed) return "goes";
    if ((this.#unreachable.get(hostId) ?? 0) > this.#nowMs) return "lost";
    return this.#random.next() < faultRate ? this.#random.pick(fates) : "goes";
  }

  /** Puts something among what is on its way. */
  #soon(what: string, run: () => Promise<unknown>): void {
    this.#pending.push({ time: this.#nowMs + this.#random.integer(40 * second), what, run });
  }

  async #later<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      this.#soon(what, async () => work().then(resolve, reject));
    });
  }

  /** Lets everything go on until it waits for something that is on its way, or is done. */
  async #settle(): Promise<void> {
    for (let quiet = 0; quiet < quietTurns; quiet += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#busy > 0) quiet = 0;
    }
  }

  #note(text: string): void {
    this.log.push(`${new Date(this.#nowMs).toISOString().slice(11, 23)} ${text}`);
  }

  async run(): Promise<void> {
    for (let step = 0; step < this.#stepCount; step += 1) {
      this.#act();
      await this.#settle();
    }
    await this.#heal();
  }

  /** One thing happens. */
  #act(): void {
    this.#nowMs += this.#random.integer(50) + 1; // no two things at the same instant
    const roll = this.#random.next();
    if (roll < 0.3) this.#newIntent();
    else if (roll < 0.47) this.#sendSome();
    else if (roll < 0.62) this.#pass(this.#random.integer(20 * second));
    else if (roll < 0.65) this.#pass(this.#random.integer(20 * minute));
    else if (roll < 0.8) this.#round();
    else if (roll < 0.87) this.#killReplica();
    else if (roll < 0.91) this.#crashHost();
    else if (roll < 0.95) this.#cutOff();
    else if (roll < (this.#isMoving ? 0.96 : 0.98)) this.#ofItself();
    else this.#operate();
  }

  /** Time passes, and what was on its way arrives. */
  #pass(ms: number): void {
    this.#nowMs += ms;
    const due = this.#pending.filter((pending) => pending.time <= this.#nowMs);
    this.#pending = this.#pending.filter((pending) => pending.time > this.#nowMs);
    while (due.length > 0) {
      const [next] = due.splice(this.#random.integer(due.length), 1);
      this.#note(`arrives: ${next?.what}`);
      void this.#unheard(next?.run());
    }
  }

  /** What a process that was killed, or a message that was lost, leaves is found out later. */
  async #unheard(work: Promise<unknown> | undefined): Promise<void> {
    await work?.catch(() => undefined);
  }

  #newIntent(): void {
    const { known } = this.expectations;
    const there = [...known].filter(([, { state, busy }]) => state !== "gone" && (busy === 0 || this.#random.next() < 0.2));
    const chosen = there[this.#random.integer(Math.max(1, there.length))];
    this.#keys += 1;
    const key = `key-${this.#keys}`;
    let intent: Intent = { kind: "create", key, expirySec: 0, expiryAction: "pause" };
    if (chosen !== undefined && this.#random.next() < 0.7) intent = this.#intentFor(key, chosen[0]);
    else if (this.#random.next() < 0.2) {
      intent = { ...intent, expirySec: this.#random.integer(20 * 60) + 1, expiryAction: this.#random.pick(["pause", "delete"] as const) };
    }
    this.expectations.begun(intent);
    this.#intents.set(intent, { isSent: false, drains: this.#drains, moves: this.#moves });
    this.#send(intent);
  }

  #intentFor(key: string, sandboxId: string): Intent {
    const kind = this.#random.pick(["pause", "pause", "resume", "resume", "delete", "fork", "checkpoint", "rollback", "extend"] as const);
    switch (kind) {
      case "fork":
        return { kind, key, parentId: sandboxId, count: 2 };
      case "delete":
        return { kind, sandboxId };
      case "rollback":
        return { kind, key, sandboxId, generation: this.#random.integer(3) + 1 };
      case "extend":
        return { kind, key, sandboxId, sec: this.#random.integer(30 * 60) + 1 };
      case "pause":
      case "resume":
      case "checkpoint":
        return { kind, key, sandboxId };
    }
  }

  #sendSome(): void {
    for (const [intent, { isSent }] of this.#intents) if (!isSent || this.#random.next() < 0.2) this.#send(intent);
  }

  #send(intent: Intent): void {
    const progress = this.#intents.get(intent);
    if (progress === undefined) return;
    progress.isSent = true;
    this.#note(`asked: ${JSON.stringify(intent)}`);
    void this.#answered(intent, this.replica);
  }

  async #answered(intent: Intent, replica: Replica): Promise<void> {
    const answer = await send(intent, replica);
    const progress = this.#intents.get(intent);
    this.#note(`answered: ${JSON.stringify(intent)} ${answer === undefined ? "try again" : JSON.stringify(answer)}`);
    if (progress === undefined) {
      if (answer !== undefined) this.expectations.repeated(intent, answer);
      return;
    }
    progress.isSent = false;
    if (answer === undefined) return;
    this.#intents.delete(intent);
    const modes = new Set(this.#draining.values());
    this.expectations.answered(intent, answer, {
      isDisturbed: modes.has("pause") || progress.drains !== this.#drains,
      isSaved: modes.has("move") || progress.moves !== this.#moves,
    });
    if (intent.kind !== "delete") this.#toAudit.push(intent.key);
  }

  #round(): void {
    const { replica } = this;
    const { sandboxes, reconcilers } = replica;
    const rounds: (() => Promise<unknown> | undefined)[] = [
      async () => sandboxes.recovery.round(),
      async () => sandboxes.operations.renew(),
      async () => reconcilers[this.#random.integer(reconcilers.length)]?.reconcile(),
      async () => sandboxes.expiry.look(),
      async () => replica.drainSome(),
      ...(this.#isMoving ? Array.from({ length: 4 }, () => async () => replica.drainSome()) : []),
      async () => replica.publish(),
      async () => this.#audit(replica),
      async () => replica.hear(this.#random.pick([...this.histories.keys()] as [string, ...string[]]), this.histories, 5),
    ];
    void this.#unheard(this.#random.pick(rounds as [(typeof rounds)[0], ...typeof rounds])());
  }

  /** Entries are written after the answer, in batches; one whose writing failed is written again. */
  async #audit(replica: Replica): Promise<void> {
    const keys = [...this.#toAudit];
    await replica.audit(keys);
    for (const key of keys) this.audited.add(key);
    this.#toAudit = this.#toAudit.filter((key) => !this.audited.has(key));
  }

  /** A host does what it does without being asked: nobody has used a sandbox for long, a checkpoint is due, or a VM ends. */
  #ofItself(): void {
    const host = this.#random.pick(this.hosts as [FakeHost, ...FakeHost[]]);
    const ids = [...host.sandboxes.keys()];
    const id = ids[this.#random.integer(Math.max(1, ids.length))];
    if (id === undefined) return;
    const known = this.expectations.known.get(id);
    const roll = this.#random.next();
    const does = known === undefined || known.busy > 0 || roll < 0.5 ? "checkpoints" : roll < 0.8 ? "pauses" : "loses";
    this.#note(`${host.id} ${does} ${id} of itself`);
    if (does === "checkpoints") this.expectations.saved(id);
    else this.expectations.disturbed(id);
    const acts = { checkpoints: host.checkpointOfItself, pauses: host.pauseOfItself, loses: host.loseVm };
    void this.#unheard(acts[does].call(host, id));
  }

  /** An operator cordons a host, drains it, or takes that back. */
  #operate(): void {
    const host = this.#random.pick(this.hosts as [FakeHost, ...FakeHost[]]);
    const aim = this.#random.pick(
      this.#isMoving ? (["ready", "move", "move", "pause"] as const) : (["ready", "cordoned", "pause"] as const),
    );
    this.#note(`${host.id} is to be ${aim}`);
    if (isDrain(aim)) this.#beginDrain(host, aim);
    void this.#unheard(
      this.replica.operate(host.id, aim, this.#now()).then(() => {
        if (!isDrain(aim)) this.#draining.delete(host.id);
      }),
    );
  }

  #beginDrain(host: FakeHost, mode: "pause" | "move"): void {
    const isPaused = mode === "pause" || this.#draining.get(host.id) === "pause"; // that one may yet be recorded, or be at it
    this.#draining.set(host.id, isPaused ? "pause" : "move");
    if (isPaused) this.#drains += 1;
    else this.#moves += 1;
    for (const { sandboxes } of this.hosts) {
      for (const [id, { transit }] of sandboxes) {
        if (sandboxes !== host.sandboxes && transit === undefined) continue;
        if (isPaused) this.expectations.disturbed(id);
        else this.expectations.saved(id);
      }
    }
  }

  #killReplica(): void {
    const { life } = this.replica;
    life.stepsLeft ??= this.#random.integer(stepsLeftMax) + 1;
    // Another one is started in the place of one that is dead by now
    this.#replicas = this.#replicas.map((replica) => (replica.life.isDead ? this.#newReplica() : replica));
  }

  #crashHost(): void {
    const host = this.#random.pick(this.hosts as [FakeHost, ...FakeHost[]]);
    this.#note(`${host.id} is killed`);
    for (const { id } of host.crash({ isSaved: this.#random.next() < 0.5 })) this.expectations.disturbed(id);
  }

  #cutOff(): void {
    const host = this.#random.pick(this.hosts as [FakeHost, ...FakeHost[]]);
    this.#note(`${host.id} cannot be reached`);
    this.#unreachable.set(host.id, this.#nowMs + this.#random.integer(5 * minute));
  }

  /** No more faults: processes are started, messages arrive, loops turn, clients ask until they are answered. */
  async #heal(): Promise<void> {
    this.#note("everything heals");
    this.#isHealed = true;
    for (const { life } of this.#replicas) life.isDead = true;
    this.#replicas = Array.from({ length: this.#replicaCount }, () => this.#newReplica());
    const [first, ...others] = this.hosts;
    const emptied = this.#isMoving && this.#random.next() < 0.5 ? first : undefined;
    for (const { id } of others) await this.#operated(id, "ready");
    if (first !== undefined) await this.#operated(first.id, emptied === undefined ? "ready" : "move");
    for (let round = 0, quiet = 0; round < healingRounds && quiet < 2; round += 1) {
      await this.#healingRound();
      const undone = this.#intents.size + this.#pending.length + (emptied?.sandboxes.size ?? 0);
      quiet = undone === 0 ? quiet + 1 : 0;
    }
    if (emptied !== undefined) {
      for (const id of emptied.sandboxes.keys()) this.expectations.broken.push(`${id} is still on ${emptied.id}, which was to be emptied`);
      await this.#operated(emptied.id, "ready");
    }
    this.#pass(25 * hour); // nobody explains strays any more, and all time is up
    for (let round = 0; round < 3; round += 1) await this.#healingRound();
    for (const { life } of this.#replicas) life.isDead = true; // whatever still waits in them is not to meet the next simulation
  }

  async #operated(hostId: string, aim: HostAim): Promise<void> {
    const host = this.hosts.find(({ id }) => id === hostId);
    if (isDrain(aim) && host !== undefined) this.#beginDrain(host, aim);
    await this.replica.operate(hostId, aim, this.#now());
    if (!isDrain(aim)) this.#draining.delete(hostId);
  }

  async #healingRound(): Promise<void> {
    this.#pass(1 * minute);
    await this.#settle();
    for (const replica of this.#replicas) {
      const { sandboxes, reconcilers } = replica;
      await replica.readHosts();
      await Promise.all([sandboxes.recovery.round(), ...reconcilers.map(async (reconciler) => reconciler.reconcile())]);
      await replica.drainSome();
      await sandboxes.expiry.look();
      for (const hostId of this.histories.keys()) await replica.hear(hostId, this.histories, Infinity);
      await replica.publish();
      await this.#audit(replica);
    }
    for (const intent of this.#intents.keys()) this.#send(intent);
    await this.#settle();
  }

  /** Requests that nobody answered for good. */
  get unanswered(): readonly Intent[] {
    return [...this.#intents.keys()];
  }

  /** How many sandboxes went on at another host. */
  get movedCount(): number {
    return [...this.histories.values()].reduce((sum, { leftCount }) => sum + leftCount, 0);
  }

  get onItsWay(): readonly string[] {
    return this.#pending.map(({ what }) => what);
  }
}
