import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";

import { expect, test } from "vitest";

import { rebase } from "./rebase.ts";
import { BufferMemory } from "./testing/buffer-memory.ts";
import { commitGeneration, ImageFixture, makeLayer, memoryBytes, restoreMemory } from "./testing/image-fixture.ts";

// Needs python3.

const page = await readFile(new URL("../../../../docs/memory-images.md", import.meta.url), "utf8");

test("the reader in docs/memory-images.md reads what is written", async () => {
  const [, reader = ""] = /```python\n(.*?)```/s.exec(page) ?? [];
  expect(reader).toContain("ROOSTDIF");
  await using fixture = await ImageFixture.create();
  const images = fixture.folder("one");
  await images.create();
  const base = await images.linkBase(await fixture.zeroMemory());
  const layer = await makeLayer(images, "layer-a.qcow2");
  const read = async () => {
    const { stdout } = await promisify(execFile)("python3", ["-c", reader, images.folder], {
      encoding: "buffer",
      maxBuffer: 2 * memoryBytes,
    });
    return stdout;
  };

  const memory = new BufferMemory(Buffer.alloc(memoryBytes));
  for (let each = 3; each < 250; each += 1) memory.fillPage(each, each % 5);
  const first = await commitGeneration(images, { memory, base, layers: [layer] });
  expect((await read()).equals(memory.bytes)).toBe(true);

  const rebased = await rebase(images, first.number);
  expect((await read()).equals(memory.bytes)).toBe(true);

  const file = rebased.manifest.memory?.base.file ?? "";
  const later = new BufferMemory(await readFile(images.basePath(file)));
  later.fillPage(3, 0); // zero over data
  later.fillPage(255, 9);
  const second = await commitGeneration(images, { memory: later, base: file, layers: [layer] });
  expect(second.manifest.memory?.diff).toMatchObject({ pages: 1, zeroPages: 1 });
  expect((await read()).equals(await restoreMemory(images, second))).toBe(true);
});
