import type { Build, BuildLogLine, CreateBuildInput, RegistryCredentials, Template, TemplateDetail } from "@roost/contract";

import type { Api } from "../api.ts";
import { savingTimeoutMs, type RequestOptions } from "../connection.ts";
import { RoostError } from "../errors.ts";
import { BuildFailedError } from "./build-failed-error.ts";
import type { Builds } from "./builds.ts";
import type { ReadingOptions } from "./context/archive.ts";
import { adding, type FileProgress } from "./file-progress.ts";
import type { BuildSource, PreparedBuild } from "./prepare.ts";

/** Time to ask for the end of a build whose caller has gone, in `ms` */
const cancelTimeoutMs = 10_000;

export interface BuildOptions {
  /** Of the template, perhaps with a tag: `name` or `name:tag` */
  readonly name: string;
  /** Tags that it gets besides */
  readonly tags?: readonly string[] | undefined;
  readonly vcpus?: number | undefined;
  readonly memoryMb?: number | undefined;
  /** For the registry that the template's image comes from; never stored */
  readonly credentials?: RegistryCredentials | undefined;
  readonly onFiles?: ((progress: FileProgress) => void) | undefined;
  /** The recipe is known, with what its steps are called and what was left out; nothing was sent yet */
  readonly onPrepared?: ((prepared: PreparedBuild) => void | Promise<void>) | undefined;
  /** The build has begun, or changed */
  readonly onBuild?: ((build: Build) => void | Promise<void>) | undefined;
  readonly onLog?: ((line: BuildLogLine) => void | Promise<void>) | undefined;
  /** Aborted: the build is cancelled */
  readonly signal?: AbortSignal | undefined;
}

/** What sandboxes start from: base templates, snapshots, and templates that are built. */
export class Templates {
  readonly #api: Api;
  readonly #builds: Builds;

  constructor(api: Api, builds: Builds) {
    this.#api = api;
    this.#builds = builds;
  }

  async list(options: RequestOptions = {}): Promise<Template[]> {
    return (await this.#api.call("listTemplates", {}, options)).templates;
  }

  /** By name, also with a tag, or id. */
  async get(name: string, options: RequestOptions = {}): Promise<TemplateDetail> {
    return this.#api.call("getTemplate", { path: { name } }, options);
  }

  /** Lets every team use a built template: start sandboxes from it, and so read all that is in it, its memory too. */
  async publish(name: string, options: RequestOptions = {}): Promise<TemplateDetail> {
    return this.#api.call("updateTemplate", { path: { name }, body: { is_public: true } }, options);
  }

  /** Lets only its own team use it again. Sandboxes that others have from it go on. */
  async unpublish(name: string, options: RequestOptions = {}): Promise<TemplateDetail> {
    return this.#api.call("updateTemplate", { path: { name }, body: { is_public: false } }, options);
  }

  /** A built template with all its builds. Refused while sandboxes of it exist. */
  async delete(name: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteTemplate", { path: { name } }, savingTimeoutMs(options));
  }

  /** Lets a tag mean a build from now on: `buildId`, else the one that `name`, with its tag, means. */
  async tag(name: string, tag: string, options: RequestOptions & { readonly buildId?: string | undefined } = {}): Promise<TemplateDetail> {
    const body = options.buildId === undefined ? {} : { build_id: options.buildId };
    return this.#api.call("setTemplateTag", { path: { name, tag }, body }, options);
  }

  async untag(name: string, tag: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("removeTemplateTag", { path: { name, tag } }, options);
  }

  /**
   * Builds a template from a Dockerfile or a recipe, and follows the build to its end. Resolves when sandboxes can start from it; a build that fails throws a `BuildFailedError`, which says at
   * which step. Aborting cancels the build.
   */
  async build(source: BuildSource, options: BuildOptions): Promise<Build> {
    const { build, prepared } = await this.start(source, options);
    try {
      return await this.#follow(build, prepared, options);
    } catch (error) {
      // whoever asked has gone: without the result nobody needs the rest
      if (options.signal?.aborted === true) await this.#builds.cancel(build.id, { timeoutMs: cancelTimeoutMs }).catch(() => undefined);
      throw error;
    }
  }

  /** The recipe that a build would be asked for, and the files that it copies: every one is read, nothing is sent. */
  async prepare(source: BuildSource, options: ReadingOptions = {}): Promise<PreparedBuild> {
    const { prepareBuild } = await import("./prepare.ts"); // programs that build nothing need not load what reads Dockerfiles and packs files
    return prepareBuild(source, options);
  }

  /** Begins a build, after what it copies was sent, and leaves it to itself. */
  async start(source: BuildSource, options: BuildOptions): Promise<{ readonly build: Build; readonly prepared: PreparedBuild }> {
    const { name, tags, vcpus, memoryMb, credentials, onFiles, signal } = options;
    const onBytes = adding((bytes) => onFiles?.({ stage: "reading", bytes }));
    const prepared = await this.prepare(source, { signal, onBytes });
    await options.onPrepared?.(prepared);
    if (prepared.archives.size > 0) {
      const { uploadArchive } = await import("./upload.ts");
      for (const [hash, archive] of prepared.archives) await uploadArchive(this.#api, hash, archive, options);
    }
    signal?.throwIfAborted();
    const body: CreateBuildInput = {
      name,
      recipe: prepared.recipe,
      ...(tags === undefined ? {} : { tags: [...tags] }),
      ...(vcpus === undefined ? {} : { vcpus }),
      ...(memoryMb === undefined ? {} : { memory_mb: memoryMb }),
      ...(credentials === undefined ? {} : { credentials }),
    };
    // not ended by the signal: an answer that nobody waits for would be a build that nobody knows of
    const build = await this.#api.call("createBuild", { body });
    return { build, prepared };
  }

  async #follow(build: Build, prepared: PreparedBuild, { onLog, onBuild, signal }: BuildOptions): Promise<Build> {
    await onBuild?.(build);
    for await (const event of this.#builds.follow(build.id, { signal })) {
      if (event.type === "line") await onLog?.(event.line);
      else await onBuild?.(event.build);
      if (event.type !== "end") continue;
      if (event.build.state === "ready") return event.build;
      throw new BuildFailedError(event.build, prepared.origins);
    }
    throw new RoostError("connection_lost", `build ${build.id} was not followed to its end`);
  }
}
