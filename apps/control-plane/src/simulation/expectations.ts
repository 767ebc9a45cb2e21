import type { Answer, Intent } from "./intents.ts";

/** What clients were told of a sandbox. */
export interface Known {
  /** `any`: they cannot know, because an answer was a refusal, or somebody else changed it since */
  state: "running" | "paused" | "gone" | "any";
  /** Number of the generation it goes back to; undefined: they cannot know */
  generation: number | undefined;
  /** Requests of clients under way */
  busy: number;
  /** More than one request was under way at once: nobody can say which came first */
  isContended: boolean;
  /** Its time is up some day: it runs no more then */
  readonly expires: boolean;
  /** It has at least until then in `ms`, as somebody was told who gave it more time */
  notBefore: number;
}

/** What clients were told, and may therefore expect. */
export class Expectations {
  readonly known = new Map<string, Known>();
  /** Answers by the key of the request */
  readonly answers = new Map<string, Answer>();
  /** Promises that turned out to be broken before everything was quiet */
  readonly broken: string[] = [];

  /** A request is sent for the first time. */
  begun(intent: Intent): void {
    const known = this.#of(intent);
    if (known === undefined) return;
    known.busy += 1;
    if (known.busy > 1) known.isContended = true;
  }

  /** A request was answered for good. `isDisturbed`: somebody else was at the sandbox meanwhile; `isSaved`: and has it as it was. */
  answered(intent: Intent, answer: Answer, { isDisturbed, isSaved }: { readonly isDisturbed: boolean; readonly isSaved: boolean }): void {
    if (intent.kind !== "delete") this.answers.set(intent.key, answer);
    const known = this.#of(intent);
    if ((intent.kind === "create" || intent.kind === "fork") && "made" in answer) {
      const expires = intent.kind === "create" ? intent.expirySec > 0 : (known?.expires ?? false);
      for (const id of answer.made) {
        const state = expires || isDisturbed ? "any" : "running";
        this.known.set(id, { state, generation: undefined, busy: 0, isContended: false, expires, notBefore: 0 });
      }
    }
    if (known === undefined) return;
    known.busy -= 1;
    if (known.state !== "gone") this.#learn(known, intent, answer);
    if (known.state !== "gone" && (known.isContended || isDisturbed || known.expires)) this.#unsure(known);
    if (isSaved) known.generation = undefined;
    if (known.busy === 0) known.isContended = false;
  }

  #learn(known: Known, intent: Intent, answer: Answer): void {
    if (intent.kind === "delete") known.state = "gone";
    else if (intent.kind === "extend") {
      if ("made" in answer) known.notBefore = Math.max(known.notBefore, answer.until ?? 0);
    } else if (intent.kind === "fork") known.generation = undefined;
    else if (intent.kind !== "create") {
      if ("refused" in answer) return this.#unsure(known);
      known.state = intent.kind === "pause" ? "paused" : "running";
      if (intent.kind === "rollback") known.generation = intent.generation;
      else if (intent.kind === "checkpoint") known.generation = answer.generation;
      else if (intent.kind === "pause") known.generation = undefined;
    }
  }

  /** Somebody changed the sandbox of their own accord. */
  disturbed(sandboxId: string): void {
    const known = this.known.get(sandboxId);
    if (known !== undefined && known.state !== "gone") this.#unsure(known);
  }

  /** The same, of the generation alone. */
  saved(sandboxId: string): void {
    const known = this.known.get(sandboxId);
    if (known === undefined) return;
    known.generation = undefined;
    if (known.busy > 0) known.isContended = true;
  }

  /** A sandbox was ended because its time is up. */
  expired(sandboxId: string, nowMs: number): void {
    const notBefore = this.known.get(sandboxId)?.notBefore ?? 0;
    if (nowMs < notBefore) this.broken.push(`the time of ${sandboxId} was up ${notBefore - nowMs} ms before its extended end`);
  }

  /** An answer to a request that was answered before: it has to be the same. */
  repeated(intent: Intent, answer: Answer): void {
    if (intent.kind !== "create" || !("made" in answer)) return;
    const first = this.answers.get(intent.key);
    const isSame = first !== undefined && "made" in first && first.made[0] === answer.made[0];
    if (!isSame) this.broken.push(`${intent.key} was answered ${JSON.stringify(first)}, and then ${JSON.stringify(answer)}`);
  }

  #unsure(known: Known): void {
    known.state = "any";
    known.generation = undefined;
  }

  #of(intent: Intent): Known | undefined {
    if (intent.kind === "create") return undefined;
    return this.known.get(intent.kind === "fork" ? intent.parentId : intent.sandboxId);
  }
}
