import { hour, minute, second } from "@roost/kit";
import { SeededRandom } from "@roost/testing";

import { observedFrom } from "../hosts/observed.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { fates, type Fate } from "./faulty-transport.ts";
import type { SharedDatabase } from "./faulty-database.ts";
import { send, type Answer, type Intent } from "./intents.ts";
import { Replica } from "./replica.ts";

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

/** What clients were told of a sandbox. */
interface Known {
  state: "running" | "paused" | "gone" | "any";
  isBusy: boolean;
}

/** Of messages to hosts, and of queries, that do not simply get through */
const faultRate = 0.35;
const databaseFaultRate = 0.02;
/** Steps that a process has left when it is to be killed: a create has about this many */
const stepsLeftMax = 24;
/**
 * Calls that a host would carry out however late they come, also after another one that was answered: they say what is to be, and not what was before. A call whose caller has
 * given up is cancelled, so that needs a network that keeps messages for long; until hosts are told which revision a change is based on it is not simulated.
 */
const notFenced: ReadonlySet<string> = new Set(["PauseSandbox", "ResumeSandbox"]);
/** Rounds in which everything has to become quiet: an operation whose host was away is waited for longest */
const healingRounds = 20;

/**
 * Control planes on one database and hosts without a host, on a clock of their own; messages between them are lost, late, repeated and overtake each other, and each side is killed at
 * any step. Clients send each request until it is answered. Then everything heals, and what is left must be what clients were told.
 *
 * What happens is decided by the seed. Ids are random, though, so two runs of a seed may differ where hosts are equal to placement.
 */
export class Simulation {
  readonly hosts: readonly FakeHost[];
  readonly known = new Map<string, Known>();
  /** Answers by the key of the request */
  readonly answers = new Map<string, Answer>();
  /** What happened, newest last */
  readonly log: string[] = [];
  readonly database: SharedDatabase;
  readonly #random: SeededRandom;
  readonly #replicaCount: number;
  readonly #stepCount: number;
  readonly #intents = new Map<Intent, { isSent: boolean }>();
  readonly #unreachable = new Map<string, number>();
  #replicas: Replica[] = [];
  #pending: Pending[] = [];
  #busy = 0;
  #nowMs = Date.UTC(2030, 0, 1);
  #isHealed = false;
  #keys = 0;

  constructor(database: SharedDatabase, options: SimulationOptions) {
    this.database = database;
    this.#random = new SeededRandom(options.seed);
    this.#replicaCount = options.replicas ?? 2;
    this.#stepCount = options.steps ?? 40;
    this.hosts = Array.from({ length: options.hosts ?? 2 }, (_, index) => this.#newHost(`host-${index}`));
    this.#replicas = Array.from({ length: this.#replicaCount }, () => this.#newReplica());
  }

  get replica(): Replica {
    return this.#random.pick(this.#replicas as [Replica, ...Replica[]]);
  }

  readonly #now = () => new Date(this.#nowMs);

  #newHost(id: string): FakeHost {
    const host = new FakeHost(id, () => 1);
    const tell = host.tell.bind(host);
    host.tell = (event) => {
      tell(event);
      const copies = this.#isHealed ? 1 : this.#random.integer(3); // lost, told, told twice
      for (let copy = 0; copy < copies; copy += 1) {
        if (event.case === "sandbox") {
          const observed = observedFrom(structuredClone(event.value), id);
          this.#soon(`${id} says ${observed.id} is ${observed.state}`, async () => this.replica.sandboxes.observe(observed));
        } else if (event.case === "removedSandboxId") {
          const removed = event.value;
          this.#soon(`${id} says ${removed} is gone`, async () => this.replica.sandboxes.observeRemoved(removed));
        }
      }
    };
    return host;
  }

  #newReplica(): Replica {
    return new Replica({
      database: this.database,
      hosts: this.hosts,
      network: {
        fate: (hostId, method) => this.#fate(hostId, method),
        later: async (what, work) => this.#later(what, work),
      },
      onBusy: (change) => (this.#busy += change),
      breaks: () => this.#breaks(),
      now: this.#now,
    });
  }

  #breaks(): "before" | "after" | undefined {
    if (this.#isHealed || this.#random.next() >= databaseFaultRate) return undefined;
    return this.#random.pick(["before", "after"] as const);
  }

  #fate(hostId: string, method: string): Fate {
    if (this.#isHealed) return "goes";
    if ((this.#unreachable.get(hostId) ?? 0) > this.#nowMs) return "lost";
    const fate = this.#random.next() < faultRate ? this.#random.pick(fates) : "goes";
    return notFenced.has(method) && (fate === "late" || fate === "twice") ? "answer-lost" : fate;
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
    for (let quiet = 0; quiet < 4; quiet += 1) {
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
    const roll = this.#random.next();
    if (roll < 0.3) this.#newIntent();
    else if (roll < 0.5) this.#sendSome();
    else if (roll < 0.65) this.#pass(this.#random.integer(20 * second));
    else if (roll < 0.68) this.#pass(this.#random.integer(20 * minute));
    else if (roll < 0.8) this.#round();
    else if (roll < 0.9) this.#killReplica();
    else if (roll < 0.95) this.#crashHost();
    else this.#cutOff();
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
    const idle = [...this.known].filter(([, known]) => !known.isBusy && (known.state === "running" || known.state === "paused"));
    const chosen = idle[this.#random.integer(Math.max(1, idle.length))];
    this.#keys += 1;
    const key = `key-${this.#keys}`;
    let intent: Intent = { kind: "create", key };
    if (chosen !== undefined && this.#random.next() < 0.6) {
      const [sandboxId, known] = chosen;
      const kind = this.#random.pick(["pause", "resume", "delete", "fork"] as const);
      known.isBusy = true;
      intent =
        kind === "fork" ? { kind, key, parentId: sandboxId, count: 2 } : kind === "delete" ? { kind, sandboxId } : { kind, key, sandboxId };
    }
    this.#intents.set(intent, { isSent: false });
    this.#send(intent);
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
    if (progress === undefined) return this.#compare(intent, answer);
    progress.isSent = false;
    if (answer === undefined) return;
    this.#intents.delete(intent);
    if (intent.kind !== "delete") this.answers.set(intent.key, answer);
    this.#learn(intent, answer);
  }

  /** One that was answered before is answered the same. */
  #compare(intent: Intent, answer: Answer | undefined): void {
    if (answer === undefined || intent.kind !== "create" || !("made" in answer)) return;
    const first = this.answers.get(intent.key);
    const isSame = first !== undefined && "made" in first && first.made[0] === answer.made[0];
    if (!isSame) throw new Error(`${intent.key} was answered ${JSON.stringify(first)}, and then ${JSON.stringify(answer)}`);
  }

  #learn(intent: Intent, answer: Answer): void {
    if (intent.kind === "create" || intent.kind === "fork") {
      if ("made" in answer) for (const id of answer.made) this.known.set(id, { state: "running", isBusy: false });
      const parent = intent.kind === "fork" ? this.known.get(intent.parentId) : undefined;
      if (parent !== undefined) parent.isBusy = false;
      return;
    }
    const known = this.known.get(intent.sandboxId);
    if (known === undefined) return;
    known.isBusy = false;
    if (intent.kind === "delete") known.state = "gone";
    else if ("made" in answer) known.state = intent.kind === "pause" ? "paused" : "running";
    else known.state = "any";
  }

  #round(): void {
    const { sandboxes, reconcilers } = this.replica;
    const what = this.#random.integer(3);
    if (what === 0) void this.#unheard(sandboxes.recovery.round());
    else if (what === 1) void this.#unheard(sandboxes.operations.renew());
    else void this.#unheard(reconcilers[this.#random.integer(reconcilers.length)]?.reconcile());
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
    host.crash();
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
    for (let round = 0, quiet = 0; round < healingRounds && quiet < 2; round += 1) {
      await this.#healingRound();
      quiet = this.#intents.size + this.#pending.length === 0 ? quiet + 1 : 0;
    }
    this.#pass(25 * hour); // nobody explains strays any more
    for (let round = 0; round < 3; round += 1) await this.#healingRound();
  }

  async #healingRound(): Promise<void> {
    this.#pass(1 * minute);
    await this.#settle();
    for (const { sandboxes, reconcilers } of this.#replicas) {
      await Promise.all([sandboxes.recovery.round(), ...reconcilers.map(async (reconciler) => reconciler.reconcile())]);
    }
    for (const intent of this.#intents.keys()) this.#send(intent);
    await this.#settle();
  }

  /** Requests that nobody answered for good. */
  get unanswered(): readonly Intent[] {
    return [...this.#intents.keys()];
  }

  get onItsWay(): readonly string[] {
    return this.#pending.map(({ what }) => what);
  }
}
