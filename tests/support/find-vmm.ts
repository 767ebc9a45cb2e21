import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** Pid of the QEMU of a sandbox, as the host agent keeps it; undefined when none runs. */
export async function findVmm(folder: string, sandboxId: string): Promise<number | undefined> {
  try {
    const record = JSON.parse(await readFile(join(folder, "sandboxes", sandboxId, "sandbox.json"), "utf8")) as {
      readonly vm: { readonly vmm: { readonly pid: number } } | null;
    };
    if (record.vm === null) return undefined;
    const { pid } = record.vm.vmm;
    return (await readFile(`/proc/${pid}/comm`, "utf8")).startsWith("qemu-system") ? pid : undefined;
  } catch {
    return undefined; // no such sandbox, or its VMM ended while we looked
  }
}
