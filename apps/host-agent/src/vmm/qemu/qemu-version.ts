import { PlatformError } from "@roost/contract";
import { run, second } from "@roost/kit";

import { qemuProgram } from "./command.ts";

/** Oldest QEMU whose private memory mappings cannot reach the file behind them (`rom=off`). */
const versionMin = [8, 2] as const;

/** Such as `QEMU 10.0.2 (Debian 1:10.0.2+ds-2)`; rejects when there is none, or it is too old. */
export async function readVersion(): Promise<string> {
  const output = await run([qemuProgram, "--version"], { timeoutMs: 10 * second }).catch((error: unknown) => {
    throw new PlatformError("sandbox_start_failed", "this host cannot run sandboxes: QEMU is not installed", { cause: error });
  });
  const [, version, major, minor] = /^QEMU emulator version ((\d+)\.(\d+)\S*.*)$/m.exec(output) ?? [];
  const isOld = Number(major) < versionMin[0] || (Number(major) === versionMin[0] && Number(minor) < versionMin[1]);
  if (version === undefined || isOld) {
    throw new PlatformError("sandbox_start_failed", `this host cannot run sandboxes: QEMU ${versionMin.join(".")} or newer is needed`, {
      detail: output.split("\n")[0] ?? "",
    });
  }
  return `QEMU ${version}`;
}
