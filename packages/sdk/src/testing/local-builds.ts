import { randomBytes, randomUUID } from "node:crypto";

import type { Build, BuildLogLine, CreateBuildBody, SetTagInput, Template, TemplateDetail, UpdateTemplateInput } from "@roost/contract";

import { FakeError, type FakeCall, type FakeHandlers, type FakeSocketCall } from "./fake-call.ts";

interface LocalTemplate {
  readonly name: string;
  readonly id: string;
  /** Tag to build */
  readonly tags: Map<string, string>;
  isPublic: boolean;
}

/** Builds that do nothing but say so: each step is a line of the log. */
export class LocalBuilds {
  readonly archives = new Map<string, Buffer>();
  /** What was asked for, in order */
  readonly requests: CreateBuildBody[] = [];
  /** What the next builds fail of; undefined: nothing */
  failure: Build["failure"] | undefined;
  /** Builds wait before their last step until they are cancelled, or until this is false */
  isHeld = false;
  readonly #builds = new Map<string, Build>();
  readonly #lines = new Map<string, BuildLogLine[]>();
  readonly #templates = new Map<string, LocalTemplate>();
  readonly #watchers = new Set<() => void>();

  get(id: string): Build {
    const build = this.#builds.get(id);
    if (build === undefined) throw new FakeError("build_not_found", `there is no build ${id}`);
    return build;
  }

  /** Newest first. */
  list(): Build[] {
    return [...this.#builds.values()].reverse();
  }

  /** Ends builds that are held. */
  release(): void {
    this.isHeld = false;
    for (const build of this.list()) if (build.state === "building") this.#end(build.id);
  }

  say(id: string, step: string | null, message: string, level: BuildLogLine["level"] = "info"): void {
    const lines = this.#lines.get(id) ?? [];
    lines.push({ number: lines.length, time: new Date().toISOString(), level, step, message });
    this.#lines.set(id, lines);
    this.#tell();
  }

  /** Templates that builds made, as the list has them. */
  templates(): Template[] {
    return [...this.#templates.values()].flatMap(({ name, id, tags, isPublic }) =>
      tags.size === 0
        ? []
        : [
            {
              name,
              kind: "built" as const,
              id,
              build_id: tags.get("default") ?? null,
              tags: [...tags.keys()].sort(),
              is_public: isPublic,
              digest: `sha256:${"2".repeat(64)}`,
              disk_mb: 10_240,
              has_memory: true,
              vcpus: 1,
              memory_mb: 512,
            },
          ],
    );
  }

  handlers(): FakeHandlers {
    return {
      http: {
        createBuild: (call) => this.#create(call.body as CreateBuildBody),
        getBuild: (call) => this.get(call.parameters["build"] ?? ""),
        listBuilds: (call) => {
          const template = call.query.get("template");
          const state = call.query.get("state");
          const matching = this.list().filter(
            (build) => (template ?? build.template) === build.template && (state ?? build.state) === build.state,
          );
          const start = Number(call.query.get("cursor") ?? 0);
          const end = start + Number(call.query.get("limit") ?? 100);
          return { builds: matching.slice(start, end), next_cursor: end < matching.length ? String(end) : null };
        },
        cancelBuild: (call) => {
          const build = this.get(call.parameters["build"] ?? "");
          if (build.ended_at === null) this.#change(build.id, { state: "cancelled", ended_at: new Date().toISOString() });
          return this.get(build.id);
        },
        getBuildLogs: (call) => {
          const { id } = this.get(call.parameters["build"] ?? "");
          const start = Number(call.query.get("offset") ?? 0);
          const end = start + Number(call.query.get("limit") ?? 100);
          const lines = this.#lines.get(id) ?? [];
          return { lines: lines.slice(start, end), next_offset: end < lines.length ? end : null };
        },
        findTemplateFiles: (call) => ({ is_present: this.archives.has(call.parameters["hash"] ?? "") }),
        putTemplateFiles: async (call) => this.#put(call),
        getTemplate: (call) => this.#detail(call.parameters["name"] ?? ""),
        updateTemplate: (call) => {
          const template = this.#template(call.parameters["name"] ?? "");
          template.isPublic = (call.body as UpdateTemplateInput).is_public;
          return this.#detail(template.name);
        },
        deleteTemplate: (call) => {
          this.#templates.delete(this.#template(call.parameters["name"] ?? "").name);
        },
        setTemplateTag: (call) => {
          const given = call.parameters["name"] ?? "";
          const template = this.#template(given);
          const source = (call.body as SetTagInput).build_id ?? template.tags.get(given.split(":")[1] ?? "default");
          if (source === undefined) throw new FakeError("build_not_found", `${given} means no build`);
          template.tags.set(call.parameters["tag"] ?? "", this.get(source).id);
          return this.#detail(template.name);
        },
        removeTemplateTag: (call) => {
          const removed = this.#template(call.parameters["name"] ?? "").tags.delete(call.parameters["tag"] ?? "");
          if (!removed) throw new FakeError("template_not_found", "there is no such tag");
        },
      },
      socket: { followBuild: (call) => this.#follow(call) },
    };
  }

  #create(body: CreateBuildBody): Build {
    const hashes = [...body.recipe.stages, body.recipe].flatMap(({ steps }) =>
      steps.flatMap((step) => (step.kind === "copy" ? [step.files] : [])),
    );
    const missing = hashes.find((hash) => !this.archives.has(hash));
    if (missing !== undefined) throw new FakeError("request_invalid", `the archive ${missing} was not uploaded`);
    this.requests.push(body);
    const [name = "", tag] = body.name.split(":");
    const template = this.#templates.get(name) ?? {
      name,
      id: `t${randomBytes(10).toString("hex")}`,
      tags: new Map<string, string>(),
      isPublic: false,
    };
    this.#templates.set(name, template);
    const tags = [...(tag === undefined ? [] : [tag]), ...body.tags];
    const now = new Date().toISOString();
    const build: Build = {
      id: randomUUID(),
      template: name,
      template_id: template.id,
      state: "waiting",
      is_cancelling: false,
      tags: tags.length === 0 ? ["default"] : tags,
      vcpus: body.vcpus,
      memory_mb: body.memory_mb,
      step_count: body.recipe.steps.length,
      steps_done: 0,
      steps_cached: 0,
      size_bytes: null,
      failure: null,
      created_at: now,
      started_at: now,
      ended_at: null,
    };
    this.#builds.set(build.id, build);
    setImmediate(() => this.#run(build.id, body));
    return build;
  }

  #run(id: string, { recipe }: CreateBuildBody): void {
    this.#change(id, { state: "building" });
    this.say(id, "base", "the base is there");
    recipe.steps.forEach((step, index) => {
      this.say(id, String(index), step.kind === "run" ? `RUN ${step.command}` : step.kind);
      this.#change(id, { steps_done: index + 1 });
    });
    if (!this.isHeld) this.#end(id);
  }

  #end(id: string): void {
    const build = this.get(id);
    const end = { ended_at: new Date().toISOString() };
    if (this.failure !== undefined && this.failure !== null) {
      this.say(id, this.failure.step, this.failure.message, "error");
      this.#change(id, { ...end, state: "failed", failure: this.failure });
      return;
    }
    for (const tag of build.tags) this.#templates.get(build.template)?.tags.set(tag, id);
    this.#change(id, { ...end, state: "ready", size_bytes: 12_582_912 });
  }

  #change(id: string, change: Partial<Build>): void {
    this.#builds.set(id, { ...this.get(id), ...change });
    this.#tell();
  }

  #tell(): void {
    for (const watcher of this.#watchers) watcher();
  }

  #follow({ parameters, query, socket }: FakeSocketCall): void {
    const id = parameters["build"] ?? "";
    let next = Number(query.get("offset") ?? 0);
    let shown: Build | undefined;
    const send = (message: unknown) => socket.send(JSON.stringify(message));
    if (!this.#builds.has(id)) {
      send({ type: "error", code: "build_not_found", data: `there is no build ${id}` });
      socket.close();
      return;
    }
    const watch = () => {
      const build = this.get(id);
      for (const line of (this.#lines.get(id) ?? []).slice(next)) {
        send({ type: "line", line });
        next = line.number + 1;
      }
      if (build === shown) return;
      shown = build;
      send({ type: build.ended_at === null ? "build" : "end", build });
      if (build.ended_at !== null) socket.close();
    };
    this.#watchers.add(watch);
    socket.on("close", () => this.#watchers.delete(watch));
    send({ type: "build", build: this.get(id) });
    watch();
  }

  async #put({ parameters, request }: FakeCall): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    if (Number(request.headers["content-length"]) !== bytes.length) throw new FakeError("request_invalid", "the length is not exact");
    this.archives.set(parameters["hash"] ?? "", bytes);
  }

  #template(name: string): LocalTemplate {
    const template = this.#templates.get(name.split(":")[0] ?? "");
    if (template === undefined) throw new FakeError("template_not_found", `there is no template ${name}`);
    return template;
  }

  #detail(name: string): TemplateDetail {
    const { tags, name: bare } = this.#template(name);
    const now = new Date().toISOString();
    const listed = this.templates().find((template) => template.name === bare);
    if (listed === undefined) throw new FakeError("template_not_found", `no build of ${name} is ready`);
    const tagBuilds = [...tags].map(([tag, build]) => ({ tag, build_id: build, created_at: now }));
    const defaults = { user: "", workdir: "", envs: {}, start_command: "", ready_command: "" };
    return { ...listed, created_at: now, updated_at: now, tag_builds: tagBuilds, defaults };
  }
}
