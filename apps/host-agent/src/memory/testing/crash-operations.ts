import { MiB } from "@roost/kit";

import type { Generation, ImageFolder } from "../image-folder.ts";
import { rebase } from "../rebase.ts";
import { BufferMemory } from "./buffer-memory.ts";
import { commitGeneration, makeLayer, memoryMib, zeroBase, type ImageFixture } from "./image-fixture.ts";

/** What a generation is to its sandbox: pages of memory by their first byte, and layers. */
export interface ExpectedState {
  readonly number: number;
  readonly pages: Readonly<Record<number, number>>;
  readonly layers: readonly string[];
}

/** Something that may be cut off anywhere, and the states that may be found afterwards. */
export interface CrashOperation {
  readonly name: string;
  /** Folder whose state is compared */
  readonly folder: string;
  readonly prepare: (images: ImageFolder, fixture: ImageFixture) => Promise<void>;
  readonly run: (images: ImageFolder, fixture: ImageFixture) => Promise<unknown>;
  /** Null: no generation */
  readonly before: ExpectedState | null;
  readonly after: ExpectedState;
}

const stateOne: ExpectedState = { number: 1, pages: { 1: 1, 5: 2 }, layers: ["layer-a.qcow2"] };
const stateTwo: ExpectedState = { number: 2, pages: { 1: 3, 200: 4 }, layers: ["layer-a.qcow2", "layer-b.qcow2"] };

async function begin(images: ImageFolder, fixture: ImageFixture): Promise<void> {
  await images.create();
  await images.linkBase(await fixture.zeroMemory());
}

async function commitState(images: ImageFolder, state: ExpectedState, kind: "pause" | "checkpoint" = "checkpoint"): Promise<Generation> {
  const memory = new BufferMemory(Buffer.alloc(memoryMib * MiB));
  for (const [page, value] of Object.entries(state.pages)) memory.fillPage(Number(page), value);
  return commitGeneration(images, { kind, memory, base: zeroBase, layers: state.layers });
}

async function both(images: ImageFolder, fixture: ImageFixture): Promise<void> {
  await begin(images, fixture);
  for (const layer of stateTwo.layers) await makeLayer(images, layer);
  await commitState(images, stateOne);
  await commitState(images, stateTwo);
}

const prunedLayer = "layer-unused.qcow2";

/** Everything an image folder does, from a state to a state. */
export const crashOperations: readonly CrashOperation[] = [
  {
    name: "first commit",
    folder: "one",
    prepare: async (images, fixture) => {
      await begin(images, fixture);
      for (const layer of stateOne.layers) await makeLayer(images, layer);
    },
    run: async (images) => commitState(images, stateOne),
    before: null,
    after: stateOne,
  },
  {
    name: "commit",
    folder: "one",
    prepare: async (images, fixture) => {
      await begin(images, fixture);
      for (const layer of stateTwo.layers) await makeLayer(images, layer);
      await commitState(images, stateOne);
    },
    run: async (images) => commitState(images, stateTwo),
    before: stateOne,
    after: stateTwo,
  },
  {
    name: "rollback",
    folder: "one",
    prepare: both,
    run: async (images) => images.setCurrent(1),
    before: stateTwo,
    after: stateOne,
  },
  {
    name: "commit after rollback",
    folder: "one",
    prepare: async (images, fixture) => {
      await both(images, fixture);
      await images.setCurrent(1);
    },
    run: async (images) => commitState(images, { ...stateTwo, number: 3 }),
    before: stateOne,
    after: { ...stateTwo, number: 3 },
  },
  {
    name: "rebase",
    folder: "one",
    prepare: both,
    run: async (images) => rebase(images, 2),
    before: stateTwo,
    after: stateTwo,
  },
  {
    name: "rebase of one that is not current",
    folder: "one",
    prepare: both,
    run: async (images) => rebase(images, 1),
    before: stateTwo,
    after: stateTwo,
  },
  {
    name: "compaction of layers",
    folder: "one",
    prepare: async (images, fixture) => {
      await both(images, fixture);
      await makeLayer(images, "layer-merged.qcow2");
    },
    run: async (images) => images.commitRevision(await images.get(2), { layers: ["layer-merged.qcow2"] }),
    before: stateTwo,
    after: { ...stateTwo, layers: ["layer-merged.qcow2"] },
  },
  {
    name: "prune",
    folder: "one",
    prepare: async (images, fixture) => {
      await both(images, fixture);
      await makeLayer(images, prunedLayer);
    },
    run: async (images) => images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } }),
    before: stateTwo,
    after: stateTwo,
  },
  {
    name: "link into another folder",
    folder: "two",
    prepare: async (_images, fixture) => both(fixture.folder("one"), fixture),
    run: async (images, fixture) => fixture.folder("one").linkInto(images, 2, { kind: "fork", sandboxId: "ichild" }),
    before: null,
    after: { ...stateTwo, number: 1 },
  },
];
