import { formatBytes } from "@roost/kit";
import { BuildFailedError, type Build, type BuildLogLine, type BuildState } from "@roost/sdk";

import type { Colors, CommandContext } from "../../context.ts";
import { exitCodes } from "../../failure.ts";
import { formatAgo, formatDuration } from "../../output/format.ts";
import { printable } from "../../output/printable.ts";
import { formatTable } from "../../output/table.ts";
import { findBuild } from "./find-build.ts";

/** Builds that one request asks for at most */
const pageSize = 1000;

export interface ListBuildsOptions {
  readonly state?: BuildState;
  readonly limit: number;
  readonly quiet?: boolean;
}

export async function listBuilds(context: CommandContext, template: string | undefined, options: ListBuildsOptions): Promise<number> {
  const client = await context.client();
  const { state, limit, quiet } = options;
  const found: Build[] = [];
  if (limit > 0) {
    for await (const build of client.builds.list({ template, state, limit: Math.min(limit, pageSize), signal: context.signal })) {
      if (found.push(build) >= limit) break;
    }
  }
  if (quiet === true) for (const { id } of found) await context.print(id);
  else if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("no builds; `roost template build` starts one");
  else await context.print(formatBuilds(context, found));
  return exitCodes.ok;
}

function formatBuilds(context: CommandContext, builds: readonly Build[]): string {
  const rows = builds.map((build) => [
    build.id,
    build.template,
    build.tags.join(" "),
    formatState(build, context.colors),
    `${build.steps_done} of ${build.step_count}`,
    `${build.steps_cached}`,
    build.size_bytes === null ? "" : formatBytes(build.size_bytes),
    formatAgo(build.created_at),
    timeOf(build),
    shortened(build.failure?.message ?? ""),
  ]);
  return formatTable(context.colors, ["ID", "TEMPLATE", "TAGS", "STATE", "STEPS", "CACHED", "SIZE", "CREATED", "TOOK", "FAILURE"], rows);
}

/** What of a failure fits into a table */
const failureLengthMax = 80;

/** The first line, as far as it fits: all of it is in the log. */
function shortened(message: string): string {
  const [line = ""] = message.split("\n");
  return printable(line.length > failureLengthMax ? `${line.slice(0, failureLengthMax - 1)}…` : line);
}

function formatState({ state, is_cancelling: isCancelling }: Build, colors: Colors): string {
  if (isCancelling) return colors.yellow("cancelling");
  if (state === "ready") return colors.green(state);
  if (state === "failed") return colors.red(state);
  return state === "cancelled" ? colors.dim(state) : colors.yellow(state);
}

function timeOf({ started_at: started, ended_at: ended }: Build): string {
  if (started === null) return "";
  return formatDuration(((ended === null ? Date.now() : Date.parse(ended)) - Date.parse(started)) / 1000);
}

export interface BuildLogsOptions {
  readonly follow?: boolean;
  readonly verbose?: boolean;
}

/** Prints a build's log; with `follow` until the build ends, and fails when it did not succeed. */
export async function buildLogs(context: CommandContext, reference: string, options: BuildLogsOptions): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const { id } = await findBuild(client, reference, signal);
  const print = async (line: BuildLogLine) => {
    if (context.isJson) await context.printJson(line);
    else if (line.level !== "debug" || options.verbose === true) await context.print(formatLine(line, context.colors));
  };
  if (options.follow !== true) {
    for await (const line of client.builds.logs(id, { signal })) await print(line);
    return exitCodes.ok;
  }
  for await (const event of client.builds.follow(id, { signal })) {
    if (event.type === "line") await print(event.line);
    else if (event.type === "end" && event.build.state !== "ready") throw new BuildFailedError(event.build, new Map());
  }
  return exitCodes.ok;
}

/** Times are the reader's: `14:03:12 [3] RUN make` */
function formatLine({ time, step, level, message }: BuildLogLine, colors: Colors): string {
  const clock = new Date(time).toLocaleTimeString("en-GB");
  const text = printable(message);
  const shown = level === "error" ? colors.red(text) : level === "warn" ? colors.yellow(text) : text;
  return `${colors.dim(clock)} ${colors.cyan(`[${step ?? "build"}]`)} ${shown}`;
}

export async function cancelBuild(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const { id } = await findBuild(client, reference, context.signal);
  const build = await client.builds.cancel(id, { signal: context.signal });
  if (context.isJson) await context.printJson(build);
  else if (build.ended_at === null || build.state === "cancelled") await context.print(id);
  else await context.note(`${id} was over before: ${build.state}`);
  return exitCodes.ok;
}
