import { inspectImage, resolveImageTarget, type FileReport, type GenerationReport, type ImageReport } from "@roost/host-agent/inspect";
import { formatBytes } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatAgo, formatMemory } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import { formatFields } from "../output/table.ts";

/** Reads the files themselves: it needs no platform, and says what is there when one does not start. */
export async function inspect(context: CommandContext, target: string): Promise<number> {
  const report = await withProgress(context, "reading every byte", async () => {
    try {
      const { folder, generation } = await resolveImageTarget(target, { stateDir: context.settings.dir, cwd: context.io.cwd });
      return await inspectImage(folder, { generation, signal: context.signal });
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code !== "EACCES" && code !== "EPERM") throw error;
      throw new CliError(`cannot read what is saved: ${message}`, { hint: "run as root", cause: error });
    }
  });
  if (context.isJson) await context.printJson(report);
  else await context.print(formatImage(context, report));
  return report.isVerified ? exitCodes.ok : exitCodes.error;
}

function formatImage(context: CommandContext, report: ImageReport): string {
  const { colors } = context;
  const { current } = report;
  const head = formatFields(colors, [
    ["image", printable(report.folder)],
    ["current", current === null ? "none" : `generation ${current.generation}, newest ever ${current.newest}`],
    ...report.damage.map((what): [string, string] => ["damaged", colors.red(printable(what))]),
  ]);
  return [head, ...report.generations.map((generation) => formatGeneration(context, generation))].join("\n\n");
}

function formatGeneration({ colors }: CommandContext, report: GenerationReport): string {
  const { manifest, files } = report;
  const title = [
    `generation ${report.generation}`,
    `revision ${report.revision}`,
    ...(report.isCurrent ? [colors.green("current")] : []),
  ].join(", ");
  const verdict: [string, string][] =
    report.damage.length === 0
      ? [["verified", colors.green("every byte is as it was committed")]]
      : report.damage.map((what) => ["damaged", colors.red(printable(what))]);
  if (manifest === null) return `${title}\n${formatFields(colors, [["folder", printable(report.folder)], ...verdict])}`;
  const { vm, memory, disk } = manifest;
  const { fingerprint } = vm;
  const fields = formatFields(colors, [
    ["folder", printable(report.folder)],
    ["made", `by a ${manifest.kind}, ${formatAgo(new Date(manifest.timeCreatedMs).toISOString())}`],
    ["sandbox", manifest.sandboxId ?? undefined],
    ["vm", `${vm.vcpus} vCPU, ${formatMemory(vm.memoryMib)} memory`],
    ["fits", lines(...entriesOf(fingerprint))],
    ["kernel", lines(vm.kernel.version, vm.kernel.digest)],
    ["agent disk", lines(vm.agentDisk.path, vm.agentDisk.digest)],
    ["network", vm.macAddress ?? undefined],
    ["memory", memory === null ? "none: the disk alone" : undefined],
    ["base file", formatFile(files.base)],
    ["diff", memory === null ? undefined : `${formatPages(memory.diff)}\n${formatFile(files.diff) ?? ""}`],
    ["device state", formatFile(files.deviceState)],
    ["disk", lines(`${formatMemory(disk.sizeMib)} over ${disk.base.path}`, disk.base.digest)],
    ...files.layers.map((layer, index): [string, string | undefined] => [`layer ${index + 1}`, formatFile(layer)]),
    ["versions", lines(...entriesOf(manifest.versions)) || undefined],
    ["manifest", files.manifest?.digest],
    ...verdict,
  ]);
  return `${title}\n${fields}`;
}

/** Name, sizes, digest; `shared` where other image folders have the same file. */
function formatFile(file: FileReport | null): string | undefined {
  if (file === null) return undefined;
  const allocated = file.allocatedBytes === null ? "missing" : `${formatBytes(file.allocatedBytes)} on disk`;
  const shared = file.links !== null && file.links > 1 ? `, shared by ${file.links}` : "";
  return lines(file.path, `${formatBytes(file.sizeBytes)}, ${allocated}${shared}`, file.digest);
}

function formatPages(diff: { readonly pages: number; readonly zeroPages: number; readonly runs: number }): string {
  return `${diff.pages} pages and ${diff.zeroPages} zero pages in ${diff.runs} runs`;
}

const lines = (...texts: readonly string[]) => texts.map(printable).join("\n");
const entriesOf = (record: Readonly<Record<string, string>>) => Object.entries(record).map((entry) => entry.join(" "));
