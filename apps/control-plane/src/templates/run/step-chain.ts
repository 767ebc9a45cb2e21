import type { Readable } from "node:stream";

import { second } from "@roost/kit";

import { saveTimeoutMs } from "../../hosts/host-link.ts";
import { ScriptFailed, type BuildGuest } from "./build-guest.ts";
import { patiently, withSandbox, type BuildSandbox, type BuildSandboxes } from "./build-sandbox.ts";
import { copyFiles, copyFromStage } from "./copy-step.ts";
import { attributed, BuildFailed, isSandboxLost, messageOf, SandboxLost } from "./failures.ts";
import { cachedPrefix, describeStep, type Plan, type PlannedStep } from "./plan.ts";
import type { Progress } from "./progress.ts";
import { runStep } from "./run-step.ts";
import { makeFolderScript } from "./scripts.ts";
import { contextAfter, withHome } from "./step-context.ts";

/** A disk on the build's host, and steps without a layer whose folders and accounts it lacks. */
export interface ChainEnd {
  readonly hostTemplate: string;
  readonly pending: readonly PlannedStep[];
}

export interface ChainParts {
  readonly plan: Plan;
  /** What the first step begins from; asked only when a step must be done */
  readonly base: () => Promise<ChainEnd>;
  readonly stageEnd: (name: string) => Promise<ChainEnd>;
  readonly openFiles: (hash: string) => Promise<Readable>;
  readonly sandboxes: BuildSandboxes;
  readonly progress: Progress;
}

/** How often the steps are gone on with after their sandbox was lost */
const lossesMax = 1;

/**
 * Steps one after another. Those that a host has in its cache are not done; the others are, in one sandbox that begins from the last cached one, and whose disk is frozen into a template after
 * each. When the sandbox is lost, what was frozen is what the next one begins from.
 */
export class StepChain {
  readonly plan: Plan;
  readonly #parts: ChainParts;
  /** How many steps, from the first on, have a layer: the rest only changes the context */
  readonly #layered: number;
  /** Layers that this build made: they count though all was to be made anew */
  readonly #made = new Set<string>();
  #end: Promise<ChainEnd> | undefined;

  constructor(parts: ChainParts) {
    this.#parts = parts;
    this.plan = parts.plan;
    this.#layered = this.plan.steps.findLastIndex(({ layer }) => layer !== undefined) + 1;
  }

  /** Does what must be done, once, however often it is asked. */
  async end(): Promise<ChainEnd> {
    this.#end ??= this.#run();
    return this.#end;
  }

  /** What was not asked for is not needed: all that takes from it is in the cache. */
  skip(): void {
    if (this.#end === undefined) for (const { label } of this.plan.steps) this.#parts.progress.stepDone(label, { isCached: true });
  }

  /** Nothing of it is done: an earlier build did all of it. */
  async sayAllCached(): Promise<void> {
    for (const step of this.plan.steps) await this.#sayCached(step);
  }

  async #run(): Promise<ChainEnd> {
    const { steps } = this.plan;
    const cached = await this.#cached();
    const needsWork = cached < this.#layered;
    for (const step of needsWork ? steps.slice(0, cached) : steps) await this.#sayCached(step);
    // Before there is a sandbox that would wait for them
    for (const { step } of steps.slice(cached, this.#layered)) if (step.kind === "copy-from-stage") await this.#parts.stageEnd(step.stage);
    if (needsWork) await this.#work(cached);
    const rest = steps.slice(this.#layered);
    if (needsWork) for (const step of rest) await this.#sayDone(step);
    const start = await this.#startAfter(this.#layered);
    return { ...start, pending: [...start.pending, ...rest] };
  }

  /** Does the steps after the first `done`. */
  async #work(done: number): Promise<void> {
    const { progress, sandboxes } = this.#parts;
    for (let losses = 0; ; losses += 1) {
      try {
        return await this.#workInOneSandbox(done);
      } catch (error) {
        if (!(error instanceof SandboxLost)) throw error;
        if (losses >= lossesMax) throw error.toFailure();
        sandboxes.log.warn({ err: error }, "the sandbox of a build was lost; another one goes on from its last layer");
        const line = `the sandbox that the build works in was lost (${messageOf(error.cause)}); another one goes on from the last step that was finished`;
        await progress.say("warn", error.label, line);
        done = await this.#cached();
      }
    }
  }

  async #workInOneSandbox(done: number): Promise<void> {
    const { sandboxes } = this.#parts;
    const steps = this.plan.steps.slice(done, this.#layered);
    let label = steps[0]?.label ?? "base";
    try {
      const start = await this.#startAfter(done);
      await withSandbox(sandboxes, start.hostTemplate, async (sandbox) => {
        for (const step of start.pending) await prepare(sandbox.inside, step);
        for (const step of steps) {
          ({ label } = step);
          await this.#do(sandbox, step);
        }
      });
    } catch (error) {
      sandboxes.signal.throwIfAborted();
      if (isSandboxLost(error)) throw new SandboxLost(label, error);
      throw attributed(error, label);
    }
  }

  async #do(sandbox: BuildSandbox, planned: PlannedStep): Promise<void> {
    const { progress, sandboxes, openFiles, stageEnd } = this.#parts;
    const { step, label, context, layer, isForced } = planned;
    const { inside } = sandbox;
    const startedMs = performance.now();
    await progress.say("info", label, describeStep(step));
    try {
      if (step.kind === "run") await runStep(inside, label, step, context, (line) => progress.say("info", label, line));
      else if (step.kind === "copy") await copyFiles(inside, step, context, await openFiles(step.files));
      else if (step.kind === "copy-from-stage") {
        const end = await stageEnd(step.stage);
        await withSandbox(sandboxes, end.hostTemplate, async (stage) => {
          for (const each of end.pending) await prepare(stage.inside, each);
          await copyFromStage(inside, step, context, stage.inside);
        });
      } else await prepare(inside, planned);
    } catch (error) {
      if (error instanceof ScriptFailed) throw new BuildFailed(label, `${describeStep(step)}: ${error.message}`, { cause: error });
      throw error;
    }
    if (layer !== undefined) {
      await freeze(sandboxes, sandbox.id, layer, { replace: isForced });
      this.#made.add(layer);
    }
    progress.stepDone(label, { isCached: false });
    await progress.say("debug", label, `done in ${((performance.now() - startedMs) / second).toFixed(1)} s`);
  }

  /** How many steps from the first on need not be done. */
  async #cached(): Promise<number> {
    const { host, signal, log } = this.#parts.sandboxes;
    const { templates } = await patiently(signal, log, () => host.describe(0));
    const there = new Set(templates.map(({ name }) => name));
    return cachedPrefix(this.plan.steps, (layer, { isForced }) => there.has(layer) && (!isForced || this.#made.has(layer)));
  }

  /** What the step after the first `done` begins from. */
  async #startAfter(done: number): Promise<ChainEnd> {
    const before = this.plan.steps.slice(0, done);
    const at = before.findLastIndex(({ layer }) => layer !== undefined);
    const hostTemplate = before[at]?.layer;
    if (hostTemplate !== undefined) return { hostTemplate, pending: before.slice(at + 1) };
    const base = await this.#parts.base();
    return { ...base, pending: [...base.pending, ...before] };
  }

  async #sayCached({ label, step }: PlannedStep): Promise<void> {
    await this.#parts.progress.say("info", label, `CACHED ${describeStep(step)}`);
    this.#parts.progress.stepDone(label, { isCached: true });
  }

  async #sayDone({ label, step }: PlannedStep): Promise<void> {
    await this.#parts.progress.say("info", label, describeStep(step));
    this.#parts.progress.stepDone(label, { isCached: false });
  }
}

/** Does to a guest what a step without a layer means for its disk. */
export async function prepare(guest: BuildGuest, { step, context, label }: PlannedStep): Promise<void> {
  try {
    if (step.kind === "user") await guest.makeAccount(contextAfter(step, context).user);
    if (step.kind !== "workdir") return;
    const { uid, gid, home } = await guest.account(context.user);
    await guest.runScript(makeFolderScript, [withHome(contextAfter(step, context).workdir, home), `${uid}:${gid}`]);
  } catch (error) {
    if (!(error instanceof ScriptFailed)) throw error;
    throw new BuildFailed(label, `${describeStep(step)}: ${error.message}`, { cause: error });
  }
}

/**
 * Keeps the disk of a sandbox as a layer that other sandboxes begin from. It goes on. A layer of that name is as good as this one, and stays unless it is to be replaced: a try whose answer was
 * lost may have made it, or another build.
 */
export async function freeze(
  { host, signal, log }: BuildSandboxes,
  sandboxId: string,
  layer: string,
  { replace }: { readonly replace: boolean } = { replace: false },
): Promise<void> {
  const request = { sandboxId, name: layer, memory: false, replace, kind: "step", defaults: {} };
  await patiently(signal, log, () => host.call(() => host.client.createTemplate(request, { timeoutMs: saveTimeoutMs })));
  host.forgetDescription();
}
