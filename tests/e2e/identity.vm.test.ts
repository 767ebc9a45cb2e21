import type { SandboxHandle } from "@roost/sdk";
import { expect, test } from "vitest";

import { usePlatform } from "../support/platform.ts";

/** Forks whose identities are compared; the soak makes 200. */
const forkCount = Number(process.env["IDENTITY_FORKS"] ?? 12);
const forksAtOnce = 8;

const platform = usePlatform({ ROOST_MEMORY_OVERCOMMIT: "4" });

/** Each line must differ in every sandbox: what a guest calls itself, and what its generators give, in the kernel and in programs that ran already when it was forked. */
const identity = [
  "cat /proc/sys/kernel/hostname",
  "cat /etc/machine-id",
  "cat /proc/sys/kernel/random/uuid",
  "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo",
  "cat /run/roost/generation-id",
  "echo $ROOST_SANDBOX_ID",
  "python3 -c 'import uuid, os, ssl; print(uuid.uuid4(), os.getrandom(16).hex(), ssl.RAND_bytes(16).hex())'",
].join("; ");

async function identityOf(sandbox: SandboxHandle): Promise<string[]> {
  const { stdout, stderr, exit_code: exitCode } = await sandbox.exec("sh", { args: ["-c", identity], timeout_sec: 60 });
  expect(exitCode, stderr).toBe(0);
  return stdout.trim().split("\n");
}

test(
  `${forkCount} forks are all somebody else`,
  async () => {
    await platform().untilMemoryImage();
    const parent = await platform().sandbox({ timeout_sec: 0 });
    const seen = [await identityOf(parent)];
    while (seen.length <= forkCount) {
      const results = await parent.fork(Math.min(forksAtOnce, forkCount + 1 - seen.length));
      const children = results.map((result) => {
        if ("error" in result) throw new Error(`${result.error.code}: ${result.error.message}`);
        return platform().client.sandbox(result.sandbox.id);
      });
      for (const lines of await Promise.all(children.map(identityOf))) seen.push(lines);
      await Promise.all(children.map((child) => child.delete()));
    }
    for (const line of seen[0]?.keys() ?? []) {
      const values = seen.map((lines) => lines[line]);
      expect(new Set(values).size, `line ${line} is someone's alone: ${values.slice(0, 3).join(" · ")} …`).toBe(seen.length);
    }
    await parent.delete();
  },
  60_000 + forkCount * 10_000,
);
