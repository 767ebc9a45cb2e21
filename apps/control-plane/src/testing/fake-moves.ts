import { randomUUID } from "node:crypto";

import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { ConnectError, ServiceImpl } from "@connectrpc/connect";
import {
  GenerationSchema,
  SandboxSchema,
  SandboxState,
  type EgressPolicy,
  type HostAgentService,
  type Sandbox,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { hostError, type FakeImages } from "./fake-images.ts";

type MoveRpc = "beginDeparture" | "readDeparture" | "beginArrival" | "writeArrival" | "completeArrival" | "endMove";

export interface FakeMoverParts {
  readonly sandboxes: Map<string, Sandbox>;
  readonly images: FakeImages;
  find(sandboxId: string): Sandbox;
  /** Throws when nothing can be reached */
  reach(): void;
  change(sandboxId: string, state: SandboxState, more?: Partial<Sandbox>): Sandbox;
  /** Ends it without anybody being told */
  remove(sandboxId: string): void;
  work(gate: Promise<void> | undefined): Promise<void>;
  inTurn<Result>(sandboxId: string, act: () => Promise<Result>): Promise<Result>;
}

interface Arrival {
  readonly attemptId: string;
  readonly record: Uint8Array;
  readonly manifests: readonly Uint8Array[];
  content: string;
}

/** Bytes of one part */
const partBytes = 8;
const fileName = "disk/content";

/** The part of a fake host that moves sandboxes: what is saved of one is a text, which it carries a few bytes at a time. */
export class FakeMoves {
  /** What sandboxes hold, by id */
  readonly contents = new Map<string, string>();
  /** What guests of sandboxes that came may reach, by id */
  readonly networks = new Map<string, EgressPolicy>();
  /** What the next call of an RPC answers instead of doing it */
  readonly failures = new Map<MoveRpc, ConnectError>();
  /** What a host sends that lies, in place of its files */
  answerRead: ((offset: bigint) => { offset: bigint; data: Uint8Array; isLast: boolean }) | undefined;
  /** Called before each call is done */
  onCall: ((rpc: MoveRpc) => Promise<void> | undefined) | undefined;
  /** Called before nothing is left of a sandbox that is elsewhere */
  onLeave: ((sandboxId: string) => void) | undefined;
  readonly #parts: FakeMoverParts;
  readonly #arrivals = new Map<string, Arrival>();

  constructor(parts: FakeMoverParts) {
    this.#parts = parts;
  }

  /** The host agent was killed: what was coming is lost. */
  crash(): void {
    this.#arrivals.clear();
  }

  /** Sandboxes that are coming, or that moves hold. */
  leftovers(): string[] {
    const held = [...this.#parts.sandboxes].filter(([, { transit }]) => transit !== undefined).map(([id]) => id);
    return [...this.#arrivals.keys(), ...held];
  }

  async #begin(rpc: MoveRpc): Promise<void> {
    this.#parts.reach();
    await this.#parts.work(this.onCall?.(rpc) ?? undefined);
    const failure = this.failures.get(rpc);
    this.failures.delete(rpc);
    if (failure !== undefined) throw failure;
  }

  service(): Required<Pick<ServiceImpl<typeof HostAgentService>, MoveRpc>> {
    const parts = this.#parts;
    return {
      beginDeparture: async ({ sandboxId, moveId, revision }) =>
        parts.inTurn(sandboxId, async () => {
          await this.#begin("beginDeparture");
          const sandbox = parts.find(sandboxId);
          if (sandbox.transit?.moveId !== moveId) {
            parts.images.admit(sandboxId, revision);
            if (sandbox.state !== SandboxState.PAUSED && sandbox.state !== SandboxState.FAILED)
              throw hostError("sandbox_wrong_state", "it runs");
            parts.change(sandboxId, sandbox.state, { transit: transitOf(moveId, false) });
          }
          const manifests = (parts.images.generations.get(sandboxId) ?? []).map((generation) => toBinary(GenerationSchema, generation));
          return { sandbox: structuredClone(sandbox), parcel: { record: toBinary(SandboxSchema, sandbox), manifests } };
        }),
      readDeparture: async ({ sandboxId, moveId, file, offset }) => {
        await this.#begin("readDeparture");
        if (parts.find(sandboxId).transit?.moveId !== moveId) throw hostError("sandbox_changed", "it is not held");
        if (file !== fileName) throw hostError("request_invalid", `there is no ${file}`);
        if (this.answerRead !== undefined) return this.answerRead(offset);
        const content = Buffer.from(this.contents.get(sandboxId) ?? "");
        const data = content.subarray(Number(offset), Number(offset) + partBytes);
        return { offset, data, isLast: Number(offset) + data.length === content.length };
      },
      beginArrival: async ({ moveId, sandboxId, parcel, accessToken, network }) => {
        await this.#begin("beginArrival");
        if (network === undefined) throw hostError("request_invalid", "what may it reach?");
        this.networks.set(sandboxId, network);
        const present = parts.sandboxes.get(sandboxId);
        if (present?.transit?.moveId === moveId) return { isComplete: true };
        if (present !== undefined) throw hostError("sandbox_exists", "it is here");
        const record = parcel?.record ?? new Uint8Array();
        if (fromBinary(SandboxSchema, record).spec?.accessToken !== accessToken) throw hostError("request_invalid", "another sandbox");
        const attemptId = randomUUID();
        this.#arrivals.set(moveId, { attemptId, record, manifests: parcel?.manifests ?? [], content: "" });
        return { attemptId, neededFiles: [fileName] };
      },
      writeArrival: async ({ moveId, attemptId, offset, data }) => {
        await this.#begin("writeArrival");
        const arrival = this.#find(moveId, attemptId);
        arrival.content = arrival.content.slice(0, Number(offset)) + Buffer.from(data).toString();
        return {};
      },
      completeArrival: async ({ moveId, attemptId, sandboxId }) =>
        parts.inTurn(sandboxId, async () => {
          await this.#begin("completeArrival");
          const present = parts.sandboxes.get(sandboxId);
          if (present?.transit?.moveId === moveId) return { sandbox: structuredClone(present) };
          const { record, manifests, content } = this.#find(moveId, attemptId);
          this.#arrivals.delete(moveId);
          const sandbox = fromBinary(SandboxSchema, record);
          parts.sandboxes.set(sandboxId, sandbox);
          this.contents.set(sandboxId, content);
          parts.images.generations.set(
            sandboxId,
            manifests.map((manifest) => fromBinary(GenerationSchema, manifest)),
          );
          return { sandbox: structuredClone(parts.change(sandboxId, sandbox.state, { transit: transitOf(moveId, true) })) };
        }),
      endMove: async ({ sandboxId, moveId, stays }) =>
        parts.inTurn(sandboxId, async () => {
          await this.#begin("endMove");
          this.#arrivals.delete(moveId);
          const sandbox = parts.sandboxes.get(sandboxId);
          if (sandbox?.transit?.moveId === moveId) {
            if (stays) {
              delete sandbox.transit;
              parts.change(sandboxId, sandbox.state);
            } else {
              this.onLeave?.(sandboxId);
              parts.remove(sandboxId);
              this.contents.delete(sandboxId);
              return {};
            }
          }
          return sandbox === undefined ? {} : { sandbox: structuredClone(sandbox) };
        }),
    };
  }

  #find(moveId: string, attemptId: string): Arrival {
    const arrival = this.#arrivals.get(moveId);
    if (arrival?.attemptId !== attemptId) throw hostError("sandbox_changed", "it is not coming any more");
    return arrival;
  }
}

function transitOf(moveId: string, arriving: boolean): NonNullable<Sandbox["transit"]> {
  return { $typeName: "hostagent.v1.Transit", moveId, arriving };
}
