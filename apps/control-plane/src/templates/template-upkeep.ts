import { defaultTeamId, isHostTemplateName, PlatformError, type ErrorCode } from "@roost/contract";
import { hour, minute, ServiceLoop, type Logger } from "@roost/kit";

import { listForgettableBuilds, listNeverStarted } from "../db/builds.ts";
import { forgetBuild, forgetEmptyTemplates, listBuiltTemplateIds, listRemovals, removalDone } from "../db/built-templates.ts";
import type { Db } from "../db/database.ts";
import { adoptSnapshots, forgetUnready, refreshSnapshots, type FoundSnapshot } from "../db/snapshots.ts";
import { callTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { BuildFiles } from "./build-files.ts";
import { removeLeftOfTeams } from "../teams/team-removal.ts";
import { requestCancel } from "./build-store.ts";
import { requestTimeoutMs } from "./builds.ts";
import { madeFrom } from "../snapshots/snapshots.ts";
import { hostTemplateOf } from "./names.ts";

/** Time between two rounds in `ms` when nobody pokes */
const intervalMs = 10 * minute;
/** Builds of each template that are kept although no tag means them, of those that are ready and of the others; sandboxes of older ones keep theirs */
const buildsKept = 5;
/** How long in `ms` a template without any build is kept: files may be uploaded for its first one */
const emptyKeptMs = 24 * hour;
/** How long in `ms` uploaded files are kept that no build uses */
const filesKeptMs = 7 * 24 * hour;
/** How long in `ms` a snapshot that nobody waits for is left to its host, which may be making it still: more than the longest that it can take */
const unreadySnapshotKeptMs = 1 * hour;
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
 * Removes what nobody needs of templates: old builds, what hosts have of builds and snapshots that are gone, what deleted teams have left, requests without a recipe, files. Records the snapshots that hosts have from before
 * they were recorded. Takes no input: reads the tables, and acts on what they say, so it does not matter who ended when.
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
    for (const build of await listNeverStarted(db, before(requestTimeoutMs))) await requestCancel(db, build, now);
    for (const { id } of await listForgettableBuilds(db, buildsKept, batchSize)) await forgetBuild(db, id, hostTemplateOf(id), now);
    await forgetEmptyTemplates(db, before(emptyKeptMs));
    await forgetUnready(db, before(unreadySnapshotKeptMs), now);
    await this.#syncSnapshots();
    await removeLeftOfTeams(this.#deps, now);
    for (const name of await listRemovals(db, batchSize)) await this.#remove(name);
    await files.removeUnused(before(filesKeptMs), async () => new Set(await listBuiltTemplateIds(db)));
  }

  /** Records what hosts say of snapshots. One from before there were records becomes the first team's, whose everything was. */
  async #syncSnapshots(): Promise<void> {
    const { db, hosts, log } = this.#deps;
    const sync = async (host: HostLink) => {
      const { templates } = await host.call(() => host.client.listTemplates({}, { timeoutMs: callTimeoutMs }));
      const snapshots = templates
        .filter((template) => template.kind === "snapshot")
        .map((template): FoundSnapshot => ({
          ...madeFrom(template, host.id),
          hostTemplate: template.name,
          sourceSandboxId: template.sourceSandboxId === "" ? null : template.sourceSandboxId,
          timeCreated: new Date(Number(template.timeCreatedMs)),
        }));
      const unnamed = snapshots.filter(({ hostTemplate }) => !isHostTemplateName(hostTemplate));
      const adopted = await adoptSnapshots(db, defaultTeamId, host.id, unnamed);
      if (adopted.length > 0)
        log.info({ hostId: host.id, snapshots: adopted }, "snapshots from before they were recorded are recorded now");
      await refreshSnapshots(db, snapshots);
    };
    const synced = await Promise.allSettled(hosts.all().map(sync));
    for (const outcome of synced)
      if (outcome.status === "rejected") log.debug({ err: outcome.reason }, "snapshots of a host are looked at later");
  }

  /** Done when no host has it any more. One that has sandboxes of it, or does not answer, is asked again in a later round. */
  async #remove(name: string): Promise<void> {
    const { db, hosts, log } = this.#deps;
    let isDone = true;
    for (const host of hosts.all()) {
      if (hosts.seenState(host.id) === "unreachable") {
        isDone = false;
        continue;
      }
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
