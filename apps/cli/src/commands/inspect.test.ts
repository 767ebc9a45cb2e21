import { createHash } from "node:crypto";
import { mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";

import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

/** An image folder whose only generation has a manifest that nobody can read. */
async function damagedSandbox(): Promise<string> {
  const folder = join(cli.folder, "sandboxes", "iabc");
  await mkdir(join(folder, "generations", "3.1"), { recursive: true });
  await writeFile(join(folder, "generations", "3.1", "manifest.json"), "{\u001b[2J}");
  return folder;
}

/** A JSON file that holds its own checksum, as docs/memory-images.md tells. */
function sealed(content: Record<string, unknown>): string {
  const zeros = "0".repeat(64);
  const text = `${JSON.stringify({ checksum: `sha256:${zeros}`, ...content }, undefined, 2)}\n`;
  return text.replace(zeros, sha256(text));
}

const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex");

/** A saved disk of one layer, made by hand from what docs/memory-images.md tells. */
async function savedDisk(): Promise<string> {
  const folder = join(cli.folder, "templates", "trained");
  const generation = join(folder, "generations", "1.1");
  await mkdir(join(folder, "disk"), { recursive: true });
  await mkdir(generation, { recursive: true });
  const layer = join(folder, "disk", "layer-a.qcow2");
  await writeFile(layer, "some bytes");
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE(crc32("some bytes"));
  const { dev, ino, mtimeNs } = await stat(layer, { bigint: true });
  const manifest = sealed({
    format: "roost-memory-image",
    formatVersion: 1,
    generation: 1,
    revision: 1,
    kind: "snapshot",
    timeCreatedMs: Date.now() - 3 * 24 * 3600 * 1000,
    sandboxId: null,
    vm: {
      vcpus: 2,
      memoryMib: 512,
      fingerprint: { vmm: "qemu", vmmVersion: "QEMU 10", accelerator: "tcg", machine: "microvm", cpu: "max" },
      kernel: { version: "6.1.0", digest: "sha256:1" },
      agentDisk: { path: "/images/agent.squashfs", digest: "sha256:2" },
      macAddress: null,
    },
    memory: null,
    disk: {
      sizeMib: 10_240,
      base: { path: "/images/base.raw", digest: "sha256:3" },
      layers: [
        {
          file: "layer-a.qcow2",
          sizeBytes: 10,
          digest: `crc32-4m:${sha256(crc)}`,
          identity: { dev: String(dev), ino: String(ino), mtimeNs: String(mtimeNs) },
        },
      ],
    },
    versions: { guest_agent: "1.2.3" },
  });
  await writeFile(join(generation, "manifest.json"), manifest);
  const pointer = { formatVersion: 1, generation: 1, revision: 1, newest: 1, manifest: `sha256:${sha256(manifest)}` };
  await writeFile(join(folder, "current"), sealed(pointer));
  return folder;
}

test("what is saved is shown and verified", async () => {
  const folder = await savedDisk();
  const shown = await cli.run(["inspect", "trained"]);
  expect(shown).toMatchObject({ exitCode: 0, stderr: "" });
  const text = shown.stdout.toString();
  expect(text).toMatch(/^current +generation 1, newest ever 1$/m);
  expect(text).toContain("generation 1, revision 1, current");
  expect(text).toMatch(/^made +by a snapshot, 3 d ago$/m);
  expect(text).toMatch(/^vm +2 vCPU, 512 MiB memory$/m);
  expect(text).toMatch(/^fits +vmm qemu\n +vmmVersion QEMU 10$/m);
  expect(text).toMatch(/^layer 1 +.*layer-a.qcow2\n +10 B, .* on disk\n +crc32-4m:[0-9a-f]{64}$/m);
  expect(text).toMatch(/^verified +every byte is as it was committed$/m);
  await writeFile(join(folder, "disk", "layer-a.qcow2"), "other byte");
  expect(await cli.run(["inspect", "trained:1"])).toMatchObject({ exitCode: 1 });
});

test("damage is told and makes the exit code 1, for people and for programs", async () => {
  const folder = await damagedSandbox();
  const said = await cli.run(["inspect", "iab:3"]);
  expect(said.exitCode).toBe(1);
  const text = said.stdout.toString();
  expect(text).toContain(`image    ${folder}`);
  expect(text).toContain("generation 3, revision 1");
  expect(text).toContain("manifest.json: does not begin with its checksum");
  expect(text).toContain("current: does not exist, but generations do");

  const json = await cli.run(["inspect", folder, "--json"]);
  expect(json.exitCode).toBe(1);
  expect(JSON.parse(json.stdout.toString())).toMatchObject({ folder, isVerified: false, generations: [{ generation: 3, manifest: null }] });
});

test("a sandbox of which nothing is saved is fine, one that is not there an error", async () => {
  await mkdir(join(cli.folder, "sandboxes", "iempty", "generations"), { recursive: true });
  expect(await cli.run(["inspect", "iempty"])).toMatchObject({ exitCode: 0 });
  const missing = await cli.run(["inspect", "inone"]);
  expect(missing.exitCode).toBe(1);
  expect(missing.stderr).toContain("there is no sandbox and no snapshot inone");
  expect((await cli.run(["inspect"])).exitCode).toBe(2);
});
