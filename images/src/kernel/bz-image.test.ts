import { expect, test } from "vitest";

import { findKernelPayload, isElf64 } from "./bz-image.ts";

const payloadOffset = 0x100;

function bzImage(payload: Buffer, change?: (image: Buffer) => void): Buffer {
  const setupSectors = 3;
  const start = (setupSectors + 1) * 512 + payloadOffset;
  const image = Buffer.alloc(start + payload.length + 64);
  image.writeUInt8(setupSectors, 0x1f1);
  image.write("HdrS", 0x202, "latin1");
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(payloadOffset, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  payload.copy(image, start);
  change?.(image);
  return image;
}

function payload(magic: readonly number[], unpackedBytes = 1234): Buffer {
  const data = Buffer.concat([Buffer.from(magic), Buffer.alloc(64, 7), Buffer.alloc(4)]);
  data.writeUInt32LE(unpackedBytes, data.length - 4);
  return data;
}

test.each([
  ["gzip", [0x1f, 0x8b]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
] as const)("finds a %s payload", (compression, magic) => {
  const found = findKernelPayload(bzImage(payload(magic)));
  expect(found.compression).toBe(compression);
  expect(found.unpackedBytes).toBe(1234);
  expect(found.data.length).toBe(magic.length + 64);
});

test.each<[string, Buffer, RegExp]>([
  ["too short", Buffer.alloc(100), /not a bzImage/],
  ["something else", Buffer.alloc(4096, 1), /not a bzImage/],
  ["an old boot protocol", bzImage(payload([0x1f, 0x8b]), (image) => image.writeUInt16LE(0x207, 0x206)), /too old/],
  ["a payload beyond its end", bzImage(payload([0x1f, 0x8b]), (image) => image.writeUInt32LE(1 << 30, 0x24c)), /outside/],
  ["an empty payload", bzImage(payload([0x1f, 0x8b]), (image) => image.writeUInt32LE(0, 0x24c)), /outside/],
  ["an unknown compression", bzImage(payload([1, 2, 3, 4])), /unknown way \(01020304/],
])("refuses a file that is %s", (_what, image, message) => {
  expect(() => findKernelPayload(image)).toThrow(message);
});

test("tells an x86-64 ELF file from others", () => {
  const elf = Buffer.alloc(64);
  elf.write("\x7fELF\x02", 0, "latin1");
  elf.writeUInt16LE(62, 18);
  expect(isElf64(elf)).toBe(true);
  elf.writeUInt16LE(183, 18); // aarch64
  expect(isElf64(elf)).toBe(false);
  expect(isElf64(Buffer.alloc(0))).toBe(false);
});
