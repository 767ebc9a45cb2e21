import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";

/** What of a CPU a guest sees when it runs on it as it is. Its microcode and clock are left out: they change, and no guest state is bound to them. */
const fields = ["vendor_id", "cpu family", "model", "model name", "stepping", "flags"] as const;

/** A short digest of the host's CPU: what a guest that saw it can be restored on. */
export async function hostCpuDigest(): Promise<string> {
  return cpuDigest(await readFile("/proc/cpuinfo", "utf8"));
}

/** Of the first processor in the text of /proc/cpuinfo. */
export function cpuDigest(cpuInfo: string): string {
  const values = fields.map((field) => new RegExp(`^${field}\\s*: (.*)$`, "m").exec(cpuInfo)?.[1] ?? "");
  return createHash("sha256").update(values.join("\n")).digest("hex").slice(0, 16);
}
