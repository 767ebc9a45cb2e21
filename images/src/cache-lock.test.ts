import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Deferred } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { lockCache } from "./cache-lock.ts";

let folder: string;
let lockFile: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-lock-"));
  lockFile = join(folder, "lock");
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test("the second waits for the first", async () => {
  const order: string[] = [];
  const waits = new Deferred<void>();
  const first = await lockCache(lockFile);
  const second = lockCache(lockFile, { onWait: () => waits.resolve() }).then((lock) => {
    order.push("second has it");
    return lock;
  });
  await waits.promise;
  order.push("first lets go");
  await first[Symbol.asyncDispose]();
  await (await second)[Symbol.asyncDispose]();
  expect(order).toEqual(["first lets go", "second has it"]);
});

test("who waits can give up, and the lock is not theirs", async () => {
  const abort = new AbortController();
  const first = await lockCache(lockFile);
  await expect(lockCache(lockFile, { onWait: () => abort.abort(new Error("enough")), signal: abort.signal })).rejects.toThrow("enough");
  await first[Symbol.asyncDispose]();
  await (await lockCache(lockFile))[Symbol.asyncDispose]();
});

test("a holder that is killed lets go", async () => {
  const holder = fork(new URL("./cache-lock-holder.ts", import.meta.url), [lockFile], {
    execArgv: ["--import", "tsx", "--conditions=@roost/source"],
  });
  await once(holder, "message");
  let waited = false;
  const lock = lockCache(lockFile, {
    onWait: () => {
      waited = true;
      holder.kill("SIGKILL");
    },
  });
  await (await lock)[Symbol.asyncDispose]();
  expect(waited).toBe(true);
});
