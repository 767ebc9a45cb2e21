import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { must, poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { MarathonModel } from "../marathon/model.ts";
import { appliedSchema, askCommand, checkedSchema, parseAnswer, startCommand } from "../marathon/program-client.ts";
import { usePlatform } from "../support/platform.ts";

/** Steps of one run; the soak runs more, with other seeds. */
const stepCount = Number(process.env["MARATHON_STEPS"] ?? 30);
/** Time of one step in `ms`, at most: a guest that is emulated on a busy machine. */
const stepTimeoutMs = 60_000;
const programPort = 4100;

const rebaseMib = 10;
const layersMax = 2;
/** Low thresholds: so that base files are made and layers merged again and again. */
const platform = usePlatform({ ROOST_REBASE_MIB: String(rebaseMib), ROOST_LAYERS_MAX: String(layersMax), ROOST_CHECKPOINTS_KEPT: "4" });

/** A sandbox, what its program should hold, and what it held at each generation that may still be gone back to. */
interface Runner {
  readonly sandbox: SandboxHandle;
  model: MarathonModel;
  readonly generations: Map<number, MarathonModel>;
}

interface Counts {
  rebases: number;
  compactions: number;
}

test(
  `${stepCount} random steps: memory and disk are as the model says after each`,
  async () => {
    const random = new SeededRandom();
    console.log(`marathon: SEED=${random.seed}`);
    await platform().untilMemoryImage();
    const counts: Counts = { rebases: 0, compactions: 0 };
    const done: string[] = [];
    let runner = await begin();
    try {
      for (let step = 0; step < stepCount; step += 1) {
        await apply(runner, random);
        const kind = random.pick(steps);
        done.push(kind.name);
        const before = await imagesOf(runner.sandbox.id);
        const next = await kind(runner, random, counts, step);
        await check(next, step % 5 === 4);
        const after = await imagesOf(next.sandbox.id);
        // Layers are only added, unless they are merged: by the VMM while it runs, or while it is paused
        if (next === runner && kind !== rollBack && !before.layers.some((layer) => after.layers.includes(layer))) counts.compactions += 1;
        runner = next;
      }
    } catch (error) {
      throw new Error(`SEED=${random.seed}, at the end of: ${done.join(" → ")}`, { cause: error });
    }
    console.log(`marathon: ${JSON.stringify(counts)}`);
    expect(counts.rebases).toBeGreaterThan(1);
    expect(counts.compactions).toBeGreaterThan(1);
    await runner.sandbox.delete();
  },
  stepCount * stepTimeoutMs,
);

async function begin(): Promise<Runner> {
  const sandbox = await platform().sandbox({ timeout_sec: 0 });
  const program = await readFile(join(import.meta.dirname, "../marathon/guest-program.py"));
  await sandbox.files.write("/home/user/program.py", program);
  await sandbox.exec("mkdir", { args: ["/home/user/marathon"] });
  const { cmd, args } = startCommand("/home/user/program.py", "/home/user/marathon", programPort);
  const { exit_code: exitCode, stderr } = await sandbox.exec(cmd, { args: [...args], timeout_sec: 60 });
  expect(exitCode, stderr).toBe(0);
  return { sandbox, model: new MarathonModel(), generations: new Map() };
}

async function ask(sandbox: SandboxHandle, command: string): Promise<string> {
  const { cmd, args } = askCommand(programPort, command);
  const { stdout, stderr, exit_code: exitCode } = await sandbox.exec(cmd, { args: [...args], timeout_sec: 60 });
  expect(exitCode, stderr).toBe(0);
  return stdout;
}

async function apply(runner: Runner, random: SeededRandom): Promise<void> {
  const [seed, count] = [random.integer(2 ** 31), random.integer(30) + 1];
  const answer = parseAnswer(appliedSchema, await ask(runner.sandbox, `apply ${seed} ${count}`));
  expect(answer).toEqual(runner.model.apply(seed, count));
}

/** `cold`: files are read from the disk, past the guest's page cache. */
async function check({ sandbox, model }: Runner, cold: boolean): Promise<void> {
  const { state, damage } = parseAnswer(checkedSchema, await ask(sandbox, cold ? "check cold" : "check"));
  expect(damage).toEqual([]);
  expect(state).toEqual(model.state());
}

type Step = (runner: Runner, random: SeededRandom, counts: Counts, step: number) => Promise<Runner>;

const pauseAndResume: Step = async (runner) => {
  const { current_generation: generation } = await runner.sandbox.pause();
  runner.generations.set(must(generation ?? undefined, "a generation of a pause"), runner.model.clone());
  await runner.sandbox.resume();
  return runner;
};

/** Gives the upkeep of a paused sandbox its time, and counts what it did. */
const restForUpkeep: Step = async (runner, _random, counts) => {
  const { sandbox } = runner;
  const before = await imagesOf(sandbox.id);
  const { current_generation: generation } = await sandbox.pause();
  runner.generations.set(must(generation ?? undefined, "a generation of a pause"), runner.model.clone());
  const after = await poll({ what: "upkeep", timeoutMs: 30_000, intervalMs: 100 }, async () => {
    const images = await imagesOf(sandbox.id);
    return images.layers.length <= layersMax && images.diffBytes <= rebaseMib * 2 ** 20 ? images : undefined;
  });
  if (after.base !== before.base) counts.rebases += 1;
  await sandbox.resume();
  return runner;
};

const checkpoint: Step = async (runner) => {
  const { generation } = await runner.sandbox.checkpoint();
  runner.generations.set(generation.number, runner.model.clone());
  return runner;
};

const rollBack: Step = async (runner, random) => {
  const kept = (await runner.sandbox.generations()).filter(({ number }) => runner.generations.has(number));
  const [first, ...others] = kept;
  if (first === undefined) return runner;
  const { number } = random.pick([first, ...others]);
  await runner.sandbox.rollback(number);
  runner.model = must(runner.generations.get(number), "the model of a generation").clone();
  return runner;
};

/** Goes on in a child or in the parent; the other ones are as they should be, too. */
const fork: Step = async (runner, random) => {
  const results = await runner.sandbox.fork(2);
  const children = results.map((result): Runner => {
    if ("error" in result) throw new Error(`${result.error.code}: ${result.error.message}`);
    return { sandbox: platform().client.sandbox(result.sandbox.id), model: runner.model.clone(), generations: new Map() };
  });
  return goOnWithOne([runner, ...children], random);
};

const snapshot: Step = async (runner, random, _counts, step) => {
  const name = `marathon-${step}`;
  const isPaused = random.integer(2) === 0;
  if (isPaused) await runner.sandbox.pause();
  await platform().client.snapshots.create(runner.sandbox.id, name);
  const model = runner.model.clone();
  if (isPaused) await runner.sandbox.resume();
  await apply(runner, random); // the snapshot does not follow
  const child: Runner = { sandbox: await platform().sandbox({ template: name, timeout_sec: 0 }), model, generations: new Map() };
  return goOnWithOne([runner, child], random);
};

const steps: readonly [Step, ...Step[]] = [
  pauseAndResume,
  pauseAndResume,
  restForUpkeep,
  restForUpkeep,
  checkpoint,
  checkpoint,
  rollBack,
  fork,
  snapshot,
];

async function goOnWithOne(runners: readonly Runner[], random: SeededRandom): Promise<Runner> {
  // Each goes its own way before any is looked at: what one writes must not show in another
  for (const runner of runners) await apply(runner, random);
  for (const runner of runners) await check(runner, false);
  const chosen = must(runners[random.integer(runners.length)], "one of the runners");
  for (const { sandbox } of runners) if (sandbox !== chosen.sandbox) await sandbox.delete();
  return chosen;
}

interface Images {
  readonly base: string;
  readonly diffBytes: number;
  readonly layers: readonly string[];
}

/** What the current generation of a sandbox is made of, and the layers of its disk. */
async function imagesOf(sandboxId: string): Promise<Images> {
  const folder = join(platform().folder, "sandboxes", sandboxId);
  const read = async <T>(...path: string[]) => JSON.parse(await readFile(join(folder, ...path), "utf8")) as T;
  const { generation, revision } = await read<{ generation: number; revision: number }>("current");
  const { memory } = await read<{ memory: { base: { file: string }; diff: { sizeBytes: number } } }>(
    "generations",
    `${generation}.${revision}`,
    "manifest.json",
  );
  const { layers } = await read<{ layers: string[] }>("sandbox.json");
  return { base: memory.base.file, diffBytes: memory.diff.sizeBytes, layers };
}
