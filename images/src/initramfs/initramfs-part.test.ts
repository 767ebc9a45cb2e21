import fc from "fast-check";
import { expect, test } from "vitest";

import { padInitramfs } from "./initramfs-part.ts";

test("at the top of memory, the initramfs leaves room for the ACPI tables whatever its length", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20_000 }), (length) => {
      const padded = padInitramfs(Buffer.alloc(length, 1));
      // QEMU: address = (top - length) rounded down to a page, for a top on a page boundary
      const top = 512 << 20;
      const address = Math.floor((top - padded.length) / 4_096) * 4_096;
      expect(top - (address + padded.length)).toBeGreaterThanOrEqual(3_584);
      expect(padded.length).toBeLessThan(length + 4_096);
      expect(padded.subarray(0, length).every((byte) => byte === 1)).toBe(true);
      expect(padded.subarray(length).every((byte) => byte === 0)).toBe(true);
    }),
  );
});
