import { MiB, poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";

/** Time a guest may take to fill its memory in `ms`: under emulation it makes some 50 MiB of random bytes a second. */
const fillTimeoutMs = 120_000;

/**
 * Holds so many random bytes and then does nothing. A piece at a time, so that little else is written: `bytearray(n)` is zero pages that nobody
 * touched yet, and each of them is touched once.
 */
const program = (bytes: number) => `
import os, time
held = bytearray(${bytes})
piece = ${MiB}
for offset in range(0, len(held), piece):
    held[offset:offset + piece] = os.urandom(piece)
open("/dev/shm/filled", "w").close()
time.sleep(1e6)
`;

/** Makes a guest change at least this much of its memory; the process that holds it lives on. */
export async function dirty(sandbox: SandboxHandle, mib: number): Promise<void> {
  if (mib === 0) return;
  await sandbox.execBackground("python3", { args: ["-c", program(mib * MiB)], tag: "load" });
  await poll({ what: `${mib} MiB of changed memory`, timeoutMs: fillTimeoutMs, intervalMs: 200 }, async () => {
    const { exit_code: missing } = await sandbox.exec("test", { args: ["-e", "/dev/shm/filled"] });
    return missing === 0 ? true : undefined;
  });
}
