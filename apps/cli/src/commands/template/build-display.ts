import { formatBytes } from "@roost/kit";
import type { Build, BuildLogLine, FileProgress, PreparedBuild } from "@roost/sdk";

import { formatDuration } from "../../output/format.ts";
import { printable } from "../../output/printable.ts";
import type { StatusLine } from "../../output/status-line.ts";

/** The first line of a step says what it is, as the build has it: what was written says it better */
const announcement = /^(CACHED )?(?:RUN|COPY|ENV|WORKDIR|USER)\b/;

/** What people see of a build: each step with what it says, and in the last line how far it is. */
export class BuildDisplay {
  readonly #status: StatusLine;
  readonly #name: string;
  #prepared: PreparedBuild | undefined;
  #step: string | null | undefined;

  /** `name`: of the template */
  constructor(status: StatusLine, name: string) {
    this.#status = status;
    this.#name = name;
  }

  files(progress: FileProgress): void {
    const total = progress.stage === "sending" ? ` of ${formatBytes(progress.total)}` : "";
    this.#status.update(`${progress.stage} files: ${formatBytes(progress.bytes)}${total}`);
  }

  prepared(prepared: PreparedBuild): void {
    this.#prepared = prepared;
    const { colors } = this.#status;
    for (const { level, file, line, keyword, message } of prepared.notes) {
      const head = level === "warning" ? colors.yellow("warning:") : colors.dim("note:");
      this.#status.print(`${head} ${file}:${line}: ${keyword}: ${printable(message)}`);
    }
    for (const path of prepared.skipped) {
      this.#status.print(`${colors.yellow("warning:")} ${printable(path)} is no file, folder or link, and left out`);
    }
  }

  build(build: Build): void {
    this.#status.update(this.#state(build));
  }

  line({ step, message, level }: BuildLogLine): void {
    if (level === "debug") return;
    const { colors } = this.#status;
    const isNew = step !== this.#step;
    this.#step = step;
    const origin = step === null ? undefined : this.#prepared?.origins.get(step);
    const announced = isNew && origin !== undefined ? announcement.exec(message) : null;
    if (announced !== null && origin !== undefined) {
      const cached = announced[1] === undefined ? "" : ` ${colors.dim("(cached)")}`;
      this.#status.print(`${colors.cyan(this.#label(step))} ${printable(origin.text)}${cached}`);
      return;
    }
    const text = printable(message);
    if (isNew) this.#status.print(`${colors.cyan(this.#label(step))} ${text}`);
    else this.#status.print(`  ${level === "error" ? colors.red(text) : level === "warn" ? colors.yellow(text) : colors.dim(text)}`);
  }

  /** `[2/7]`, `[stage build 1]`, `[finalize]` */
  #label(step: string | null): string {
    const total = this.#prepared?.recipe.steps?.length ?? 0;
    if (step === null) return "[build]";
    return /^\d+$/.test(step) ? `[${Number(step) + 1}/${total}]` : `[${step}]`;
  }

  #state({ state, steps_done: done, step_count: total, is_cancelling: isCancelling }: Build): string {
    if (isCancelling) return `cancelling the build of ${this.#name}`;
    if (state === "waiting") return `the build of ${this.#name} waits for its turn`;
    return `building ${this.#name}: ${done} of ${total} steps done`;
  }

  /** `7 steps, 5 cached, 34 MiB in 12 s` */
  summary({ step_count: count, steps_cached: cached, size_bytes: size, created_at: created, ended_at: ended }: Build): string {
    const steps = `${count} ${count === 1 ? "step" : "steps"}, ${cached} cached`;
    const bytes = size === null ? "" : `, ${formatBytes(size)}`;
    const time = ended === null ? "" : `, in ${formatDuration((Date.parse(ended) - Date.parse(created)) / 1000)}`;
    return `${steps}${bytes}${time}`;
  }
}
