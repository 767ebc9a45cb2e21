import { second, ServiceLoop } from "@roost/kit";

import { claimBuild } from "../build-store.ts";
import { BuildWork, claimMs, type BuildWorkParts } from "./build-work.ts";
import { abandonedSandboxes } from "./hidden-sandboxes.ts";

/** Time between two rounds in `ms` when nobody pokes: claims are renewed four times before they end */
const intervalMs = 15 * second;

export interface BuildRunnerParts extends BuildWorkParts {
  /** What this process claims builds as */
  readonly claimedBy: string;
  /** Whether no other process works at builds of this database */
  readonly isExclusive: boolean;
  readonly atOnceMax: number;
}

/**
 * Works at builds: takes on what waits, keeps the claims on what it works at, and ends what nobody works at. A build is begun from its start by whoever takes it on; what its cache has makes that
 * a resumption.
 */
export class BuildRunner {
  readonly #parts: BuildRunnerParts;
  readonly #working = new Map<string, { readonly work: BuildWork; readonly done: Promise<void> }>();
  #loop: ServiceLoop | undefined;

  constructor(parts: BuildRunnerParts) {
    this.#parts = parts;
  }

  /** Does the next round now: there is a build to be taken on, or to be cancelled. */
  poke(): void {
    this.#loop?.poke();
  }

  /** Works until `signal` aborts; what is under way then is left for the next one, and nothing of it stays on hosts. */
  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("builds", this.#parts.log, signal);
    this.#loop = loop;
    await loop.every(intervalMs, async () => this.round());
    for (const { work } of this.#working.values()) work.abort("shutdown");
    await this.idle();
  }

  /** Resolves when nothing is worked at. */
  async idle(): Promise<void> {
    while (this.#working.size > 0) await Promise.all([...this.#working.values()].map(({ done }) => done));
  }

  async round(): Promise<void> {
    for (const { work } of this.#working.values()) await work.renew();
    await this.#endAbandoned();
    const { db, claimedBy, isExclusive, atOnceMax } = this.#parts;
    while (this.#working.size < atOnceMax) {
      const now = new Date();
      const row = await claimBuild(db, { claimedBy, now, claimEnds: new Date(now.getTime() + claimMs), isExclusive });
      if (row === undefined) return;
      this.#workAt(new BuildWork(row, this.#parts));
    }
  }

  #workAt(work: BuildWork): void {
    const done = work
      .run()
      .catch((error: unknown) =>
        this.#parts.log.error({ err: error, buildId: work.id }, "a build could not be written; its claim ends by itself"),
      )
      .finally(() => {
        if (this.#working.get(work.id)?.work === work) this.#working.delete(work.id);
        this.poke();
      });
    this.#working.set(work.id, { work, done });
  }

  async #endAbandoned(): Promise<void> {
    const { db, sandboxes, log } = this.#parts;
    for (const { id, for_build_id: buildId } of await abandonedSandboxes(db, new Date())) {
      if (buildId !== null && this.#working.has(buildId)) continue; // it ends its own
      log.info({ sandboxId: id, buildId }, "ending a sandbox of a build that nobody works at");
      await sandboxes
        .deleteForBuild(id)
        .catch((error: unknown) => log.info({ err: error, sandboxId: id }, "it is ended when its host can be reached"));
    }
  }
}
