import { RoostError, type SandboxHandle } from "@roost/sdk";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { usePlatform } from "../support/platform.ts";

const platform = usePlatform();

/** Requests at the same time, and for how many of them. */
const workers = 6;
const requestsPerWorker = Number(process.env["CONCURRENCY_REQUESTS"] ?? 8);
/** Longest any answer may take in `ms`: a boot on a machine that does six things at once. */
const answerTimeoutMs = 120_000;

type Request = (sandbox: SandboxHandle, random: SeededRandom) => Promise<unknown>;

const requests: readonly [Request, ...Request[]] = [
  (sandbox) => sandbox.pause(),
  (sandbox) => sandbox.resume(),
  (sandbox) => sandbox.exec("true"),
  (sandbox) => sandbox.checkpoint(),
  async (sandbox) => {
    for (const result of await sandbox.fork(1)) if ("sandbox" in result) await platform().client.sandboxes.delete(result.sandbox.id);
  },
  async (sandbox, random) => {
    const { name } = await platform().client.snapshots.create(sandbox.id, `c${random.integer(2 ** 31)}`);
    await platform().client.snapshots.delete(name);
  },
  async (sandbox) => {
    const [newest] = await sandbox.generations();
    if (newest !== undefined) await sandbox.rollback(newest.number);
  },
];

/** What a request may be told when others change the same sandbox: that it came at the wrong time, and nothing else. */
const legal = new Set(["sandbox_wrong_state", "sandbox_busy", "generation_not_found", "guest_unreachable"]);

test("everything at once on one sandbox: every answer is legal, none hangs, and it can be used afterwards", async () => {
  const random = new SeededRandom();
  console.log(`concurrency: SEED=${random.seed}`);
  await platform().untilMemoryImage();
  const sandbox = await platform().sandbox({ timeout_sec: 0 });
  await sandbox.files.write("/home/user/file", "kept");
  await sandbox.checkpoint();
  const answers: Record<string, number> = {};
  const worker = async (seed: number) => {
    const own = new SeededRandom(seed);
    for (let count = 0; count < requestsPerWorker; count += 1) {
      const request = own.pick(requests);
      const answer = await Promise.race([
        request(sandbox, own).then(
          () => "ok",
          (error: unknown) => error,
        ),
        new Promise<string>((resolve) => {
          setTimeout(() => resolve("hung"), answerTimeoutMs).unref();
        }),
      ]);
      const word = answer instanceof RoostError ? answer.code : String(answer);
      answers[word] = (answers[word] ?? 0) + 1;
      if (answer !== "ok") expect(legal, `${word}: ${answer instanceof Error ? answer.message : ""}`).toContain(word);
    }
  };
  await Promise.all(Array.from({ length: workers }, () => worker(random.integer(2 ** 31))));
  console.log(`concurrency: ${JSON.stringify(answers)}`);
  expect(answers["ok"]).toBeGreaterThan(0);

  expect(["running", "paused"]).toContain((await sandbox.get()).state);
  await sandbox.resume();
  expect(await sandbox.files.readText("/home/user/file")).toBe("kept");

  // And while it is deleted
  const last = [sandbox.pause(), sandbox.checkpoint(), sandbox.exec("true"), sandbox.delete(), sandbox.fork(1), sandbox.resume()];
  const outcomes = await Promise.allSettled(last);
  expect(outcomes[3]?.status).toBe("fulfilled");
  for await (const child of platform().client.sandboxes.list()) await platform().client.sandboxes.delete(child.id);
}, 600_000);
