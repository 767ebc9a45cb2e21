import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { bundleChild } from "../testing/bundle-child.ts";
import { durableSteps, type DurableStep } from "./durable-steps.ts";
import type { ImageFolder } from "./image-folder.ts";
import { crashOperations, type CrashOperation, type ExpectedState } from "./testing/crash-operations.ts";
import { commitGeneration, ImageFixture, pagesOf, restoreMemory } from "./testing/image-fixture.ts";

// Kills processes at every durable step; a hundred of them take a while. Needs Linux.

let folder: string;
let child: string;
const stepsSeen = new Set<DurableStep>();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-crash-"));
  child = await bundleChild(join(import.meta.dirname, "testing/crash-child.ts"), join(folder, "crash-child.mjs"));
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Runs the operation, or its recovery, in a process that kills itself at a step. Whether it was killed; anything else that ends it badly is an error. */
async function runKilled(fixture: ImageFixture, operation: CrashOperation, what: "run" | "recover", index: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [child, fixture.root, operation.name, what, String(index)],
      { timeout: 30_000 },
      (error, _stdout, stderr) => {
        if (error === null) resolve(false);
        else if (error.signal === "SIGKILL" && error.killed !== true) resolve(true);
        else reject(new Error(`the child failed: ${stderr}`, { cause: error }));
      },
    );
  });
}

async function stateOf(images: ImageFolder): Promise<ExpectedState | null> {
  const current = existsSync(images.paths.generations) ? await images.current() : null;
  if (current === null) return null;
  await images.verify(current, { deep: true });
  const layers = current.manifest.disk.layers.map((layer) => layer.file);
  return { number: current.number, pages: pagesOf(await restoreMemory(images, current)), layers };
}

/** Files of an image folder that neither a readable generation nor `current` accounts for. */
async function leftovers(images: ImageFolder): Promise<string[]> {
  const list = (path: string) => (existsSync(path) ? readdirSync(path) : []);
  const generations = await images.list();
  const named = new Set(["current", "disk", "memory", "generations", "manifest.json", "memory.diff", "device.state"]);
  for (const generation of generations) {
    if (!("manifest" in generation)) continue;
    named.add(`${generation.number}.${generation.revision}`);
    for (const { file } of generation.manifest.disk.layers) named.add(file);
    if (generation.manifest.memory !== null) named.add(generation.manifest.memory.base.file);
  }
  const { paths } = images;
  const inside = list(paths.generations).flatMap((name) => list(join(paths.generations, name)));
  const found = [paths.folder, paths.disk, paths.memory, paths.generations].flatMap((path) => list(path)).concat(inside);
  return found.filter((name) => !named.has(name));
}

describe.each(crashOperations)("$name", (operation) => {
  async function prepared(): Promise<ImageFixture> {
    const fixture = await ImageFixture.create();
    await operation.prepare(fixture.folder(operation.folder), fixture);
    return fixture;
  }

  /** What must hold whatever was cut off: the old state or the new one, whole, and nothing else. Which it is. */
  async function examine(fixture: ImageFixture, at: string): Promise<"before" | "after"> {
    const images = fixture.folder(operation.folder);
    const report = await images.recover();
    expect(report.damaged, at).toEqual([]);
    const state = await stateOf(images);
    expect([operation.before, operation.after], at).toContainEqual(state);
    if (existsSync(images.paths.generations)) await images.prune({ keepCheckpoints: 9, inUse: { layers: [], bases: [] } });
    expect(await leftovers(images), at).toEqual([]);
    for (const generation of await images.list()) {
      if (!("manifest" in generation)) throw new Error(`${at}: ${generation.error.message}`);
      await images.verify(generation, { deep: true });
    }
    const again = await fixture.folder(operation.folder).recover();
    expect({ ...again, removed: [] }, at).toEqual({
      ...again,
      rolledForward: null,
      rolledBack: [],
      isPointerRebuilt: false,
      damaged: [],
      removed: [],
    });
    expect(await stateOf(images), at).toEqual(state);
    return JSON.stringify(state) === JSON.stringify(operation.after) ? "after" : "before";
  }

  /** The steps of the operation, as it makes them when nothing stops it. */
  async function stepsOf(): Promise<DurableStep[]> {
    const steps: DurableStep[] = [];
    await using fixture = await prepared();
    await operation.run(fixture.folder(operation.folder, { onStep: (step) => void steps.push(step) }), fixture);
    expect(await examine(fixture, "uninterrupted")).toBe("after");
    for (const step of steps) stepsSeen.add(step);
    return steps;
  }

  test("killed at any step, it is as before or as after", async () => {
    const steps = await stepsOf();
    expect(steps.length).toBeGreaterThan(2);
    const found = new Set<string>();
    for (const [index, step] of steps.entries()) {
      await using fixture = await prepared();
      expect(await runKilled(fixture, operation, "run", index)).toBe(true);
      // the recovery is killed, too, at each of its steps in turn, until one comes through
      for (let turn = 0; await runKilled(fixture, operation, "recover", turn); turn += 1) expect(turn).toBeLessThan(20);
      found.add(await examine(fixture, step));
      // and the folder is as good as new
      const images = fixture.folder(operation.folder);
      if ((await images.current()) === null) continue;
      const next = await commitGeneration(images, { memory: null, base: "", layers: [] });
      expect((await images.current())?.number).toBe(next.number);
    }
    expect(found).toContain("after");
  }, 120_000);

  test("when any step fails, it says so, and is as before or as after", async () => {
    for (const [index, step] of (await stepsOf()).entries()) {
      await using fixture = await prepared();
      let count = 0;
      const images = fixture.folder(operation.folder, {
        onStep: () => {
          if (count++ === index) throw Object.assign(new Error("no space left"), { code: "ENOSPC", syscall: "write" });
        },
      });
      const failure = await operation.run(images, fixture).then(
        () => undefined,
        (error: unknown) => error,
      );
      // what only tidies up after a commit does not make it fail
      if (failure === undefined) expect(step).toMatch(/^remove:/);
      else expect(failure, step).toMatchObject({ code: "host_disk_full" });
      if (failure !== undefined && !step.startsWith("remove:") && !step.startsWith("prune:") && existsSync(images.paths.generations)) {
        // nothing is left for a recovery to do
        expect(await stateOf(images), step).toEqual(operation.before);
        expect((await images.recover()).removed, step).toEqual([]);
      }
      await examine(fixture, step);
    }
  }, 60_000);
});

test("every durable step was one of those", () => {
  expect([...stepsSeen].sort()).toEqual([...durableSteps].sort());
});
