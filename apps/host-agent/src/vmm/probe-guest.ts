/**
 * The guest of the accelerator probe: an initramfs whose only program prints a line and powers the machine off. Written
 * byte by byte, so that the probe needs nothing but the kernel that sandboxes boot.
 */

/** What the guest prints once the kernel has booted and user mode works. */
export const probeGuestWords = "roost probe guest is up";

const loadAddress = 0x400000;
const elfHeaderBytes = 64;
const programHeaderBytes = 56;

/** The initramfs: an archive of one file, `init`. */
export function probeInitramfs(): Buffer {
  return Buffer.concat([archiveEntry("init", 0o100755, probeProgram()), archiveEntry("TRAILER!!!", 0, Buffer.alloc(0))]);
}

/** A static x86-64 program: write(1, words), then reboot(LINUX_REBOOT_CMD_POWER_OFF). */
function probeProgram(): Buffer {
  const words = Buffer.from(`${probeGuestWords}\n`);
  const codeOffset = elfHeaderBytes + programHeaderBytes;
  const setEax = (value: number) => [0xb8, ...uint32(value)];
  const setEdi = (value: number) => [0xbf, ...uint32(value)];
  const setEsi = (value: number) => [0xbe, ...uint32(value)];
  const setEdx = (value: number) => [0xba, ...uint32(value)];
  const syscall = [0x0f, 0x05];
  const code = (wordsAddress: number) =>
    Buffer.from(
      [
        [...setEax(1), ...setEdi(1), ...setEsi(wordsAddress), ...setEdx(words.length), ...syscall],
        [...setEax(169), ...setEdi(0xfee1dead), ...setEsi(0x28121969), ...setEdx(0x4321fedc), ...syscall],
        [0xeb, 0xfe], // a loop, should the machine still be on
      ].flat(),
    );
  const wordsAddress = loadAddress + codeOffset + code(0).length;
  const size = codeOffset + code(0).length + words.length;

  const headers = Buffer.alloc(codeOffset);
  headers.write("\x7fELF\x02\x01\x01", 0, "latin1"); // 64 bits, little-endian, version 1
  headers.writeUInt16LE(2, 16); // ET_EXEC
  headers.writeUInt16LE(62, 18); // EM_X86_64
  headers.writeUInt32LE(1, 20);
  headers.writeBigUInt64LE(BigInt(loadAddress + codeOffset), 24); // entry point
  headers.writeBigUInt64LE(BigInt(elfHeaderBytes), 32); // program headers
  headers.writeUInt16LE(elfHeaderBytes, 52);
  headers.writeUInt16LE(programHeaderBytes, 54);
  headers.writeUInt16LE(1, 56); // one of them
  headers.writeUInt32LE(1, 64); // PT_LOAD
  headers.writeUInt32LE(5, 68); // read and execute
  headers.writeBigUInt64LE(BigInt(loadAddress), 80); // virtual and
  headers.writeBigUInt64LE(BigInt(loadAddress), 88); // physical address
  headers.writeBigUInt64LE(BigInt(size), 96); // bytes in the file and
  headers.writeBigUInt64LE(BigInt(size), 104); // in memory
  headers.writeBigUInt64LE(4096n, 112);
  return Buffer.concat([headers, code(wordsAddress), words]);
}

function uint32(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
}

/** One entry of a cpio archive in the "newc" format that Linux unpacks (Documentation/driver-api/early-userspace/buffer-format). */
function archiveEntry(name: string, mode: number, content: Buffer): Buffer {
  const fields = [0, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}\0`;
  return Buffer.concat([pad(Buffer.from(header, "latin1")), pad(content)]);
}

function pad(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
