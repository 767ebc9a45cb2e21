import { randomUUID } from "node:crypto";

import {
  errorCatalogue,
  idempotencyKeyHours,
  PlatformError,
  type ErrorCode,
  type ListOperationsQuery,
  type OperationKind,
} from "@roost/contract";
import { hour, minute, nap, second, type Logger } from "@roost/kit";

import type { Database, Db } from "../db/database.ts";
import {
  abandonOperation,
  claimAbandoned,
  endOperation,
  findOperation,
  findOperationOfKey,
  forgetKeys,
  forgetOperations,
  insertOperation,
  keepAnswer,
  listOperations,
  renewClaim,
  renewClaims,
  type OperationRow,
} from "../db/operations.ts";
import type { KeptAnswer } from "../db/schema-operations.ts";

/** How long a claim lasts in `ms` without being renewed: a control plane that is this late is taken for dead */
export const claimMs = 30 * second;
/** Operations that one look takes over */
const takenOverMax = 100;
/** How long one that ended can be asked after, in `ms`; also how long a sandbox that its host has and nobody knows is explained by it */
const retentionMs = 7 * 24 * hour;
/** Longest that a repeated request waits for the first in `ms` */
const replayWaitMsDefault = 1 * minute;
/** Time between two looks at the first in `ms` */
const replayLookMs = 100;

/** Who asks for an operation, and by what name. */
export interface OperationRequest {
  readonly teamId: string;
  /** Of the native API; null: something else asks */
  readonly endpoint: string | null;
  /** What names it, with SHA-256 of what is asked; null: nothing */
  readonly key: { readonly key: string; readonly requestHash: Uint8Array } | null;
  /** Of its answer when it succeeds: what `around` answers is kept with it, together with the end */
  readonly status?: number;
  /** Told its id where it was recorded, before it is answered */
  readonly onRecorded?: (operationId: string) => void;
}

/** What the platform does of its own accord, or is asked without a name. */
export function unnamed(teamId: string): OperationRequest {
  return { teamId, endpoint: null, key: null };
}

export interface OperationSubject {
  /** `build`: the platform's own work for one, which users are not shown */
  readonly kind: "sandbox" | "template" | "build";
  readonly id: string;
}

/** Another request with the same key was faster. It is answered as that one. */
export class KeyTaken extends Error {
  override readonly name = "KeyTaken";
}

/** Failures after which nobody knows here what came of it: somebody looks. */
const outcomeUnknown: ReadonlySet<ErrorCode> = new Set(["internal"]);
/** Failures that say nothing about a second try, besides those that the catalogue calls retryable. */
const passing: ReadonlySet<ErrorCode> = new Set(["quota_exceeded"]);

export function freesKey(code: ErrorCode): boolean {
  return errorCatalogue[code].retryable || passing.has(code);
}

/** One that is being worked at here. */
export class RunningOperation {
  readonly id = randomUUID();
  readonly generation = 1;
  readonly kind: OperationKind;
  readonly #begin: (db: Db, what: OperationStart) => Promise<void>;

  constructor(kind: OperationKind, begin: (operation: RunningOperation, db: Db, what: OperationStart) => Promise<void>) {
    this.kind = kind;
    this.#begin = async (db, what) => begin(this, db, what);
  }

  /**
   * Records it, in the transaction that records what it is to do. A transaction that is rolled back takes it along; it can be begun again then. Throws `KeyTaken`
   * when there is one with its key.
   */
  async begin(db: Db, what: OperationStart): Promise<void> {
    await this.#begin(db, what);
  }
}

export interface OperationStart {
  readonly subject: OperationSubject;
  /** Ids of the sandboxes that it makes, or of the build or snapshot */
  readonly made?: readonly string[];
}

export interface OperationsDependencies {
  readonly database: Database;
  readonly log: Logger;
  /** Longest that a repeated request waits for the first, in `ms` */
  readonly replayWaitMs?: number;
  readonly now?: () => Date;
}

/**
 * Pieces of work that survive who does them. An operation is recorded before it is begun, and claimed by the control plane that works at it. One whose claim has
 * ended is taken over (../operations/recovery.ts), which looks at what its host made of it: there is nothing to be remembered of how far it was.
 *
 * A request with a key is done once. Whoever sends it again gets the first answer, unless that was a failure that says nothing about a second try: then it is tried again.
 */
export class Operations {
  /** Of this process */
  readonly claimedBy = randomUUID();
  readonly #deps: OperationsDependencies;
  readonly #running = new Map<string, RunningOperation>();
  readonly #waiting = new Set<AbortController>();

  constructor(deps: OperationsDependencies) {
    this.#deps = deps;
  }

  get #db(): Db {
    return this.#deps.database.db;
  }

  now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  /** Does `work` as an operation. What `work` throws before it begins it leaves no trace. */
  async run<Result>(
    kind: OperationKind,
    request: OperationRequest,
    work: (operation: RunningOperation) => Promise<Result>,
    keeps: (result: Result) => KeptAnswer | null = () => null,
  ): Promise<Result> {
    const operation = new RunningOperation(kind, async (self, db, what) => this.#begin(self, request, db, what));
    try {
      const result = await work(operation);
      await this.#end(operation, request, null, keeps(result));
      return result;
    } catch (error) {
      if (!(error instanceof KeyTaken)) await this.#end(operation, request, error);
      throw error;
    } finally {
      this.#running.delete(operation.id);
    }
  }

  /** The same, where nothing else is recorded together with it. */
  async around<Result>(kind: OperationKind, request: OperationRequest, what: OperationStart, work: () => Promise<Result>): Promise<Result> {
    const { key, status } = request;
    return this.run(
      kind,
      request,
      async (operation) => {
        await operation.begin(this.#db, what);
        return work();
      },
      (body) => (key === null || status === undefined ? null : { status, body }),
    );
  }

  async #begin(operation: RunningOperation, request: OperationRequest, db: Db, what: OperationStart): Promise<void> {
    const { teamId, endpoint, key } = request;
    const now = this.now();
    this.#running.set(operation.id, operation); // renewed from now on
    const inserted = await insertOperation(
      db,
      {
        id: operation.id,
        teamId,
        kind: operation.kind,
        subject: what.subject,
        made: what.made ?? [],
        endpoint,
        key: key === null || endpoint === null ? null : { endpoint, ...key },
        claimedBy: this.claimedBy,
        claimEnds: new Date(now.getTime() + claimMs),
      },
      now,
    );
    if (!inserted) throw new KeyTaken("another request with the same key has begun");
  }

  /** `error` null: it succeeded. An end that cannot be written is written by whoever takes it over. */
  async #end(operation: RunningOperation, request: OperationRequest, error: unknown, kept: KeptAnswer | null = null): Promise<void> {
    if (!this.#running.has(operation.id)) return; // never begun
    try {
      if (await this.endAs(operation, error, kept)) request.onRecorded?.(operation.id);
    } catch (cause) {
      this.#deps.log.warn(
        { err: cause, operationId: operation.id },
        "the end of an operation could not be recorded; it will be taken over",
      );
    }
  }

  /** Ends one that these hands have, or leaves it to whoever looks; false when others have it by now, or it was never recorded. */
  async endAs(
    operation: { readonly id: string; readonly generation: number },
    error: unknown,
    kept: KeptAnswer | null = null,
  ): Promise<boolean> {
    const now = this.now();
    if (error === null) {
      const ended = await endOperation(this.#db, operation, { failure: null, step: "done", freesKey: false, kept }, now);
      this.#lookAgain();
      return ended;
    }
    if (!(error instanceof PlatformError) || outcomeUnknown.has(error.code)) {
      return abandonOperation(this.#db, operation, now);
    }
    const { code, message } = error;
    const ended = await endOperation(
      this.#db,
      operation,
      { failure: { code, message }, step: "undone", freesKey: freesKey(code), kept: null },
      now,
    );
    this.#lookAgain();
    return ended;
  }

  /** Those that were abandoned, which are this process's from here on. */
  async takeOver(): Promise<OperationRow[]> {
    const now = this.now();
    return claimAbandoned(
      this.#db,
      {
        claimedBy: this.claimedBy,
        claimEnds: new Date(now.getTime() + claimMs),
        limit: takenOverMax,
        deadClaims: this.#deps.database.isExclusive,
      },
      now,
    );
  }

  /** Says of all that is being worked at here that it is. */
  async renew(): Promise<void> {
    await renewClaims(this.#db, this.claimedBy, [...this.#running.keys()], new Date(this.now().getTime() + claimMs));
  }

  /** Throws where others have it by now: they have decided, or will, what came of it, and nothing more may be done for it here. */
  async requireOurs(operation: RunningOperation): Promise<void> {
    if (await renewClaim(this.#db, operation, new Date(this.now().getTime() + claimMs))) return;
    throw new PlatformError("operation_interrupted", "another control plane has taken this over; try again", { retryAfterSec: 1 });
  }

  /**
   * The operation that an earlier request with the same key was, once it has ended; undefined when there is none, and this request is to be done. Throws what it failed of;
   * `idempotency_key_reused` when that request asked something else.
   */
  async earlier(request: OperationRequest, signal: AbortSignal): Promise<OperationRow | undefined> {
    const { teamId, endpoint, key } = request;
    if (key === null || endpoint === null) return undefined;
    const end = performance.now() + (this.#deps.replayWaitMs ?? replayWaitMsDefault);
    for (;;) {
      const row = await findOperationOfKey(this.#db, { teamId, endpoint, key: key.key });
      if (row === undefined) return undefined;
      if (!Buffer.from(key.requestHash).equals(row.request_hash ?? Buffer.alloc(0))) {
        throw new PlatformError(
          "idempotency_key_reused",
          `Idempotency-Key: another request was sent with this key in the last ${idempotencyKeyHours} hours; take a new key for each request, and the same only to send the same again`,
        );
      }
      if (row.state === "succeeded") return row;
      if (row.failure !== null) throw new PlatformError(row.failure.code, row.failure.message);
      signal.throwIfAborted();
      if (performance.now() >= end) {
        throw new PlatformError(
          "operation_running",
          `the first request with this key is still being worked at, as operation ${row.id}; try again later`,
          {
            retryAfterSec: 5,
          },
        );
      }
      await this.#changed(signal);
    }
  }

  /** Resolves when an operation ended here, or after a moment. */
  async #changed(signal: AbortSignal): Promise<void> {
    const wake = new AbortController();
    this.#waiting.add(wake);
    try {
      await nap(replayLookMs, AbortSignal.any([signal, wake.signal]));
    } finally {
      this.#waiting.delete(wake);
    }
  }

  #lookAgain(): void {
    for (const wake of this.#waiting) wake.abort();
  }

  /** Keeps an answer for whoever sends the request again. */
  async keep(operationId: string, answer: KeptAnswer): Promise<void> {
    await keepAnswer(this.#db, operationId, answer);
  }

  async get(teamId: string, id: string): Promise<OperationRow> {
    const row = await findOperation(this.#db, teamId, id);
    if (row === undefined)
      throw new PlatformError("operation_not_found", `there is no operation ${id}; those that ended are forgotten after a week`);
    return row;
  }

  async list(teamId: string, { subject, limit }: ListOperationsQuery): Promise<OperationRow[]> {
    return listOperations(this.#db, { teamId, limit, ...(subject === undefined ? {} : { subjectId: subject }) });
  }

  /** Forgets keys that are old, and operations that are older. */
  async forgetOld(): Promise<void> {
    const now = this.now().getTime();
    await forgetKeys(this.#db, new Date(now - idempotencyKeyHours * hour));
    await forgetOperations(this.#db, new Date(now - retentionMs));
  }
}
