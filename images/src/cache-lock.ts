import { spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";

import { ImageBuildError } from "./image-build-error.ts";

/** Longest a builder waits for another in `ms`: a whole build on a slow machine and mirror. */
const lockTimeoutMs = 30 * 60_000;

/**
 * One builder at a time per cache folder. The kernel holds the lock (flock(1)) for a child that lives as long as the pipe to us
 * does, so it is free as soon as we are gone, however we ended.
 */
export async function lockCache(
  lockFile: string,
  options: { readonly onWait?: () => void; readonly signal?: AbortSignal } = {},
): Promise<AsyncDisposable> {
  await (await open(lockFile, "a")).close();
  const attempt = await holdLock(["--nonblock"], lockFile, options.signal);
  if (attempt !== undefined) return attempt;
  options.onWait?.();
  const lock = await holdLock(["--timeout", String(lockTimeoutMs / 1_000)], lockFile, options.signal);
  if (lock === undefined)
    throw new ImageBuildError(`another build of the images holds ${lockFile} for more than ${lockTimeoutMs / 60_000} minutes`);
  return lock;
}

/** Undefined when somebody else has the lock. */
async function holdLock(flags: readonly string[], lockFile: string, signal: AbortSignal | undefined): Promise<AsyncDisposable | undefined> {
  signal?.throwIfAborted();
  const child = spawn("flock", [...flags, "--conflict-exit-code", "75", lockFile, "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true, // Ctrl-C goes to the terminal's process group; the lock is ours until what we undo is undone
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on("error", (error) => reject(new ImageBuildError("cannot run flock(1); install util-linux", { cause: error })));
    child.on("close", (code) => resolve(code));
  });
  const onAbort = () => child.stdin.destroy();
  const kill = () => child.kill("SIGKILL"); // while it waits for the lock it does not look at the pipe
  signal?.addEventListener("abort", kill, { once: true });
  const held = await Promise.race([once(child.stdout, "data").then(() => true), ended.then((code) => code)]);
  signal?.removeEventListener("abort", kill);
  signal?.throwIfAborted();
  if (held === 75) return undefined;
  if (held !== true) throw new ImageBuildError(`cannot lock ${lockFile}: flock(1) exited with ${held}`);
  return {
    async [Symbol.asyncDispose]() {
      onAbort();
      await ended;
    },
  };
}
