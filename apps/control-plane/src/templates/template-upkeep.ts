import type { ErrorCode } from "@roost/contract";
import { PlatformError } from "@roost/contract";
import { hour, minute, ServiceLoop, type Logger } from "@roost/kit";

import { listForgettableBuilds, listNeverStarted } from "../db/builds.ts";
import { forgetBuild, forgetEmptyTemplates, listBuiltTemplates, listRemovals, removalDone } from "../db/built-templates.ts";
import type { Db } from "../db/database.ts";
import type { HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { BuildFiles } from "./build-files.ts";
import { requestCancel } from "./build-store.ts";
import { requestTimeoutMs } from "./builds.ts";
import { hostTemplateOf } from "./names.ts";

/** Time between two rounds in `ms` when nobody pokes */
const intervalMs = 10 * minute;
/** Builds of each template that are kept although no tag means them, of those that are ready and of the others; sandboxes of older ones keep theirs */
const buildsKept = 5;
/** How long in `ms` a template without any build is kept: files may be uploaded for its first one */
const emptyKeptMs = 24 * hour;
/** How long in `ms` uploaded files are kept that no build uses */
const filesKeptMs = 7 * 24 * hour;
/** Builds forgotten and templates removed in one round */
const batchSize = 200;
/** Time a host has to delete a template in `ms`: gigabytes on a slow disk */
const deleteTimeoutMs = 1 * minute;
/** What a host says of a template that it does not have */
const isGone: ReadonlySet<ErrorCode> = new Set(["template_not_found", "snapshot_not_found"]);

export interface TemplateUpkeepDependencies {
  readonly db: Db;
  readonly hosts: Hosts;
  readonly files: BuildFiles;
  readonly log: Logger;
  readonly now?: () => Date;
}

/**
 * Removes what nobody needs of templates: old builds, what hosts have of builds that are gone, requests without a recipe, files. Takes no input: reads the tables, and acts on what they say, so
 * it does not matter who ended when.
 */
export class TemplateUpkeep {
  readonly #deps: TemplateUpkeepDependencies;
  #loop: ServiceLoop | undefined;

  constructor(deps: TemplateUpkeepDependencies) {
    this.#deps = deps;
  }

  /** Does the next round now. */
  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("template upkeep", this.#deps.log, signal);
    this.#loop = loop;
    await loop.every(intervalMs, async () => this.round());
  }

  async round(): Promise<void> {
    const { db, files } = this.#deps;
    const now = this.#deps.now?.() ?? new Date();
    const before = (keptMs: number) => new Date(now.getTime() - keptMs);
    for (const { id } of await listNeverStarted(db, before(requestTimeoutMs))) await requestCancel(db, id, now);
    for (const { id } of await listForgettableBuilds(db, buildsKept, batchSize)) await forgetBuild(db, id, hostTemplateOf(id), now);
    await forgetEmptyTemplates(db, before(emptyKeptMs));
    for (const name of await listRemovals(db, batchSize)) await this.#remove(name);
    await files.removeUnused(before(filesKeptMs), async () => new Set((await listBuiltTemplates(db)).map((row) => row.id)));
  }

  /** Done when no host has it any more. One that has sandboxes of it, or does not answer, is asked again in a later round. */
  async #remove(name: string): Promise<void> {
    const { db, hosts, log } = this.#deps;
    let isDone = true;
    for (const host of hosts.links) {
      try {
        await this.#removeFrom(host, name);
      } catch (error) {
        isDone = false;
        log.info({ err: error, template: name, hostId: host.id }, "a template that nobody needs stays on its host for now");
      }
    }
    if (isDone) await removalDone(db, name);
  }

  async #removeFrom(host: HostLink, name: string): Promise<void> {
    try {
      await host.call(() => host.client.deleteTemplate({ name }, { timeoutMs: deleteTimeoutMs }));
      host.forgetDescription();
      this.#deps.log.info({ template: name, hostId: host.id }, "a template that nobody needs was removed");
    } catch (error) {
      if (!(error instanceof PlatformError && isGone.has(error.code))) throw error;
    }
  }
}
