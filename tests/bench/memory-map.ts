import { readFile } from "node:fs/promises";

import { median } from "./report.ts";

/** What a mapping of a VMM is for, by its line in smaps. */
function purposeOf(permissions: string, path: string): string {
  if (path.endsWith("/memory")) return "guest memory: what it changed, and its share of the rest";
  if (permissions.includes("x") && path === "") return "translated code (TCG)";
  if (path === "[heap]") return "heap";
  if (path === "") return "other anonymous memory";
  if (path.startsWith("[")) return "stack and kernel's";
  return "program and libraries";
}

/** PSS of each VMM by what it is for, as text: medians in `MiB`, the largest first. */
export async function describeMemory(pids: readonly number[]): Promise<string> {
  const maps = await Promise.all(pids.map(pssByPurpose));
  const purposes = new Set(maps.flatMap((map) => [...map.keys()]));
  return [...purposes]
    .map((purpose) => ({ purpose, mib: median(maps.map((map) => map.get(purpose) ?? 0)) }))
    .sort((a, b) => b.mib - a.mib)
    .map(({ purpose, mib }) => `    ${mib.toFixed(1).padStart(8)} MiB ${purpose}\n`)
    .join("");
}

async function pssByPurpose(pid: number): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  let purpose = "";
  for (const line of (await readFile(`/proc/${pid}/smaps`, "utf8")).split("\n")) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+\s*(.*)$/.exec(line);
    if (mapping !== null) purpose = purposeOf(mapping[1] ?? "", mapping[2] ?? "");
    const pss = /^Pss:\s+(\d+) kB/.exec(line)?.[1];
    if (pss !== undefined) found.set(purpose, (found.get(purpose) ?? 0) + Number(pss) / 1024);
  }
  return found;
}
