import { ImageBuildError } from "../image-build-error.ts";

/** How the kernel inside a bzImage is compressed. */
export type KernelCompression = "gzip" | "lz4" | "zstd" | "xz";

export interface KernelPayload {
  readonly compression: KernelCompression;
  /** The compressed vmlinux, without the length that the kernel's build appends to it. */
  readonly data: Buffer;
  /** Length of the vmlinux in `bytes`. */
  readonly unpackedBytes: number;
}

/** First bytes of each format (the kernel uses lz4's legacy frame). */
const magics: Readonly<Record<KernelCompression, readonly number[]>> = {
  gzip: [0x1f, 0x8b],
  lz4: [0x02, 0x21, 0x4c, 0x18],
  zstd: [0x28, 0xb5, 0x2f, 0xfd],
  xz: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
};

/**
 * Finds the compressed vmlinux in a bzImage (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
 *
 * We boot the vmlinux itself (its PVH entry): the guest need not unpack 50 MiB under software emulation, and the small
 * `microvm` machine can start it.
 */
export function findKernelPayload(image: Buffer): KernelPayload {
  if (image.length < 0x250 || image.toString("latin1", 0x202, 0x206) !== "HdrS") throw new ImageBuildError("the kernel is not a bzImage");
  if (image.readUInt16LE(0x206) < 0x208) throw new ImageBuildError("the kernel's boot protocol is too old to tell where its payload is");
  const setupSectors = image.readUInt8(0x1f1) || 4; // 0 means 4, for reasons of 1993
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const end = start + image.readUInt32LE(0x24c);
  if (end > image.length || end - start < 16) throw new ImageBuildError("the kernel's payload lies outside its file");
  const data = image.subarray(start, end - 4);
  const found = Object.entries(magics).find(([, magic]) => magic.every((byte, index) => data[index] === byte));
  if (found === undefined) throw new ImageBuildError(`the kernel is compressed in an unknown way (${data.toString("hex", 0, 6)})`);
  return { compression: found[0] as KernelCompression, data, unpackedBytes: image.readUInt32LE(end - 4) };
}

/** Whether these are the first bytes of a 64-bit ELF file for x86-64: what must come out of the payload. */
export function isElf64(start: Buffer): boolean {
  return start.length >= 20 && start.toString("latin1", 0, 4) === "\x7fELF" && start[4] === 2 && start.readUInt16LE(18) === 62;
}
