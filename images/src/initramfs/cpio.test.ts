import fc from "fast-check";
import { expect, test } from "vitest";

import { characterDeviceMode, cpioArchive, fileMode, folderMode } from "./cpio.ts";

interface Read {
  readonly name: string;
  readonly mode: number;
  readonly mtime: number;
  readonly device: readonly number[];
  readonly data: string;
}

/** A reader after the kernel's description of the format, independent of the writer. */
function readArchive(archive: Buffer): readonly Read[] {
  const entries: Read[] = [];
  for (let at = 0; ;) {
    expect(archive.toString("latin1", at, at + 6)).toBe("070701");
    const field = (index: number) => Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, mtime, size, major, minor, nameSize] = [field(1), field(5), field(6), field(9), field(10), field(11)];
    const name = archive.toString("utf8", at + 110, at + 110 + nameSize - 1);
    expect(archive[at + 110 + nameSize - 1]).toBe(0);
    const data = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (name === "TRAILER!!!") return entries;
    entries.push({ name, mode, mtime, device: [major, minor], data: archive.toString("latin1", data, data + size) });
    at = Math.ceil((data + size) / 4) * 4;
  }
}

test("an archive holds what was put in", () => {
  const archive = cpioArchive(
    [
      { name: "dev", mode: folderMode(0o755) },
      { name: "dev/console", mode: characterDeviceMode(0o600), device: [5, 1] },
      { name: "init", mode: fileMode(0o755), data: Buffer.from("#!/bin/busybox sh\n") },
    ],
    1_767_225_600,
  );
  expect(readArchive(archive)).toEqual([
    { name: "dev", mode: 0o040755, mtime: 1_767_225_600, device: [0, 0], data: "" },
    { name: "dev/console", mode: 0o020600, mtime: 1_767_225_600, device: [5, 1], data: "" },
    { name: "init", mode: 0o100755, mtime: 1_767_225_600, device: [0, 0], data: "#!/bin/busybox sh\n" },
  ]);
});

test("names and contents of every length are aligned", () => {
  const file = fc.record({ name: fc.stringMatching(/^[a-z][a-z0-9/_.é-]{0,40}$/), data: fc.uint8Array({ maxLength: 40 }) });
  fc.assert(
    fc.property(fc.array(file, { maxLength: 6 }), (files) => {
      const read = readArchive(
        cpioArchive(
          files.map(({ name, data }) => ({ name, data, mode: fileMode(0o644) })),
          0,
        ),
      );
      expect(read.map(({ name, data }) => [name, data])).toEqual(
        files.map(({ name, data }) => [name, Buffer.from(data).toString("latin1")]),
      );
    }),
  );
});

test("names are relative", () => {
  expect(() => cpioArchive([{ name: "/init", mode: fileMode(0o755) }], 0)).toThrow("relative");
});
