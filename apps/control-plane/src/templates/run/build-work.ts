import { second, type Logger } from "@roost/kit";
import { PlatformError, type BuildLogLevel, type Recipe } from "@roost/contract";

import type { Db } from "../../db/database.ts";
import { removeFromHosts } from "../../db/built-templates.ts";
import type { Guests } from "../../guest/guests.ts";
import type { Hosts } from "../../hosts/hosts.ts";
import type { Sandboxes } from "../../sandboxes/sandboxes.ts";
import type { BuildFiles } from "../build-files.ts";
import { finishBuild, renewClaim, updateBuild, type BuildEnd, type BuildPatch, type BuildRow } from "../build-store.ts";
import type { Builds } from "../builds.ts";
import { hostTemplateOf } from "../names.ts";
import type { TemplateLookup } from "../template-lookup.ts";
import { BuildLog } from "./build-log.ts";
import { earlierResults } from "./earlier-result.ts";
import { BuildEnded, BuildFailed, messageOf } from "./failures.ts";
import { hiddenSandboxes, hostsThatBuilt } from "./hidden-sandboxes.ts";
import { loginFor, noLogin } from "./registry-credentials.ts";
import { runBuild } from "./run-build.ts";

/** How long a claim holds in `ms` unless it is renewed: a control plane that died is noticed that late, one on a database of its own at once */
export const claimMs = 60 * second;

export interface BuildWorkParts {
  readonly db: Db;
  readonly hosts: Hosts;
  readonly sandboxes: Pick<Sandboxes, "createForBuild" | "deleteForBuild">;
  readonly guests: Pick<Guests, "of">;
  readonly lookup: Pick<TemplateLookup, "resolve">;
  readonly builds: Pick<Builds, "credentialsOf" | "forgetCredentials">;
  readonly files: Pick<BuildFiles, "open">;
  /** Longest that a build may take in `ms` */
  readonly timeoutMs: number;
  /** There is something on hosts to be removed */
  readonly onRemoval: () => void;
  readonly log: Logger;
}

/** One build while this process works at it: holds its claim, writes its log and progress, and ends its row. */
export class BuildWork {
  readonly id: string;
  readonly #parts: BuildWorkParts;
  readonly #log: Logger;
  readonly #buildLog: BuildLog;
  readonly #abort = new AbortController();
  readonly #done = new Set<string>();
  readonly #cached = new Set<string>();
  /** As it was last written; writes are one after another */
  #row: BuildRow;
  #writing: Promise<unknown> = Promise.resolve();

  /** `row`: as it was claimed. */
  constructor(row: BuildRow, parts: BuildWorkParts) {
    this.id = row.id;
    this.#row = row;
    this.#parts = parts;
    this.#log = parts.log.child({ buildId: row.id });
    this.#buildLog = new BuildLog({ db: parts.db, buildId: row.id, log: this.#log });
  }

  /** Ends the work for a reason of this process, so that somebody else goes on. Resolves when `run` will. */
  abort(why: BuildEnded["why"]): void {
    this.#abort.abort(new BuildEnded(why));
  }

  /** Keeps the claim, and sees whether the build is to be cancelled. */
  async renew(): Promise<void> {
    const claimEnds = new Date(Date.now() + claimMs);
    const row = await renewClaim(this.#parts.db, this.#row, claimEnds);
    if (row === undefined) this.abort("claim-lost");
    else if (row.time_cancel_requested !== null) this.abort("cancelled");
  }

  /** Does the build. Rejects only when nothing could be written of it: then its claim ends by itself. */
  async run(): Promise<void> {
    const timer = setTimeout(() => this.abort("time-up"), this.#parts.timeoutMs);
    this.#log.info({ templateId: this.#row.template_id }, "working at a build");
    try {
      const end = await this.#work();
      if (end !== undefined) await this.#finish(end);
    } finally {
      clearTimeout(timer);
      await this.#buildLog.close();
    }
  }

  /** What the build has come to; undefined: somebody else goes on with it. */
  async #work(): Promise<BuildEnd | undefined> {
    try {
      await this.renew();
      await this.#endLeftSandboxes();
      const { template, resultKey } = await this.#runBuild();
      return { state: "ready", hostTemplate: template.name, sizeBytes: Number(template.sizeBytes), resultKey };
    } catch (error) {
      if (error instanceof BuildEnded) return this.#endFor(error);
      const failure = { message: this.#withAdvice(error, messageOf(error)), step: error instanceof BuildFailed ? error.step : null };
      this.#log.info({ err: error, step: failure.step }, "a build failed");
      await this.#buildLog.add("error", failure.step, failure.message);
      return { state: "failed", failure };
    }
  }

  async #endFor({ why }: BuildEnded): Promise<BuildEnd | undefined> {
    this.#log.info({ why }, "a build was ended");
    switch (why) {
      case "cancelled":
        await this.#buildLog.add("warn", null, "the build was cancelled");
        return { state: "cancelled" };
      case "time-up": {
        const message = `the build took longer than ${this.#parts.timeoutMs / second} s (ROOST_BUILD_TIMEOUT_SEC); what is in the cache makes the next one shorter`;
        await this.#buildLog.add("error", null, message);
        return { state: "failed", failure: { message, step: null } };
      }
      case "shutdown":
        await this.#buildLog.add("warn", null, "the control plane ends; the build goes on after its restart");
        // others need not wait until the claim ends
        await renewClaim(this.#parts.db, this.#row, new Date());
        return undefined;
      case "claim-lost":
        return undefined;
    }
  }

  async #runBuild() {
    const { db, hosts, sandboxes, guests, lookup, files, builds } = this.#parts;
    const { id, team_id: teamId, template_id: templateId, vcpus, memory_mib: memoryMib } = this.#row;
    const signal = this.#abort.signal;
    return runBuild({
      teamId,
      buildId: id,
      recipe: this.#recipe(),
      vcpus,
      memoryMib,
      hostTemplate: hostTemplateOf(id),
      hosts,
      sandboxes,
      guests,
      resolve: (name) => lookup.resolve(teamId, name),
      openFiles: async (hash) => (await files.open(templateId, hash))?.stream,
      login: async () => {
        const credentials = builds.credentialsOf(id);
        return credentials === undefined ? noLogin : loginFor(credentials, signal);
      },
      preferredHosts: await hostsThatBuilt(db, templateId),
      earlierResults: (resultKey, hostId) => earlierResults(db, resultKey, hostId),
      fetched: (hostId) => (this.#row.host_id === hostId ? this.#row.sources : {}),
      onHost: (hostId) => {
        const sources = this.#row.host_id === hostId ? this.#row.sources : {};
        return this.#update({ host_id: hostId, steps_done: 0, steps_cached: 0, sources: JSON.stringify(sources) });
      },
      onFetched: (name, source) => this.#update({ sources: JSON.stringify({ ...this.#row.sources, [name]: source }) }),
      progress: {
        say: (level: BuildLogLevel, step, line) => this.#buildLog.add(level, step, line),
        stepDone: (label, { isCached }) => this.#stepDone(label, isCached),
      },
      signal,
      log: this.#log,
    });
  }

  #recipe(): Recipe {
    const { recipe } = this.#row;
    if (recipe === null) throw new PlatformError("internal", "the build has no recipe");
    return recipe;
  }

  /** Of a control plane that died, or whose claim ended, while it worked at this. */
  async #endLeftSandboxes(): Promise<void> {
    for (const { id } of await hiddenSandboxes(this.#parts.db, this.id)) {
      await this.#parts.sandboxes
        .deleteForBuild(id)
        .catch((error: unknown) =>
          this.#log.info({ err: error, sandboxId: id }, "a sandbox of the build is ended when its host can be reached"),
        );
    }
  }

  #stepDone(label: string, isCached: boolean): void {
    if (this.#done.has(label)) return;
    this.#done.add(label);
    if (isCached) this.#cached.add(label);
    this.#update({ steps_done: this.#done.size, steps_cached: this.#cached.size }).catch((error: unknown) =>
      this.#log.warn({ err: error }, "a build's progress could not be written"),
    );
  }

  async #update(patch: BuildPatch): Promise<void> {
    const write = async () => {
      if (this.#abort.signal.aborted) return;
      const row = await updateBuild(this.#parts.db, this.#row, patch);
      if (row === undefined) this.abort("claim-lost");
      else this.#row = row;
    };
    const writing = this.#writing.then(write);
    this.#writing = writing.catch(() => undefined);
    return writing;
  }

  async #finish(end: BuildEnd): Promise<void> {
    const { db, builds, onRemoval } = this.#parts;
    await this.#writing;
    if (end.state === "ready") await this.#buildLog.add("info", null, "the template is ready");
    await this.#buildLog.flush();
    let row = await finishBuild(db, this.#row, end, new Date());
    if (row === undefined && end.state === "ready") {
      await this.#buildLog.add("warn", null, "the build was cancelled");
      await this.#buildLog.flush();
      row = await finishBuild(db, this.#row, { state: "cancelled" }, new Date());
    }
    if (row === undefined) {
      this.#log.warn("somebody else works at a build that was done here");
      return;
    }
    this.#log.info({ state: row.state }, "a build has ended");
    builds.forgetCredentials(this.id);
    if (row.state === "ready") return;
    await removeFromHosts(db, [hostTemplateOf(this.id)], new Date());
    onRemoval();
  }

  /** A build that was begun by another process may have had credentials, which nobody has now. */
  #withAdvice(error: unknown, message: string): string {
    const cause = error instanceof BuildFailed ? error.cause : error;
    const isAboutImage = cause instanceof PlatformError && (cause.code === "image_unusable" || cause.code === "registry_unreachable");
    const recipe = this.#row.recipe;
    const hasCredentials = this.#parts.builds.credentialsOf(this.id) !== undefined;
    if (!isAboutImage || hasCredentials || recipe === null) return message;
    return `${message} (this build has no credentials for the registry: they are never stored, so a restart of the control plane forgets them; if it had some, start it again)`;
  }
}
