import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { parseEvents } from "./inotify.ts";

function encode(event: { watch: number; mask: number; cookie: number; name: Buffer }, padding: number): Buffer {
  const header = Buffer.alloc(16);
  header.writeInt32LE(event.watch, 0);
  header.writeUInt32LE(event.mask, 4);
  header.writeUInt32LE(event.cookie, 8);
  header.writeUInt32LE(event.name.length === 0 ? 0 : event.name.length + padding, 12);
  return Buffer.concat([header, event.name, Buffer.alloc(event.name.length === 0 ? 0 : padding)]);
}

test("events are read as the kernel packs them: with padding, without a name, the overflow mark, odd bytes", () => {
  const bytes = Buffer.concat([
    encode({ watch: 1, mask: 0x100, cookie: 0, name: Buffer.from("file") }, 12),
    encode({ watch: 2, mask: 0x4000_0100, cookie: 7, name: Buffer.from("fülder") }, 1),
    encode({ watch: 1, mask: 0x400, cookie: 0, name: Buffer.alloc(0) }, 0),
    encode({ watch: -1, mask: 0x4000, cookie: 0, name: Buffer.alloc(0) }, 0),
    encode({ watch: 3, mask: 0x2, cookie: 0, name: Buffer.from([0x61, 0xff]) }, 14),
  ]);
  expect(parseEvents(bytes)).toEqual([
    { watch: 1, mask: 0x100, cookie: 0, name: "file" },
    { watch: 2, mask: 0x4000_0100, cookie: 7, name: "fülder" },
    { watch: 1, mask: 0x400, cookie: 0, name: undefined },
    { watch: -1, mask: 0x4000, cookie: 0, name: undefined },
    { watch: 3, mask: 0x2, cookie: 0, name: Buffer.from([0x61, 0xff]) },
  ]);
});

test("whatever the bytes, reading ends", () => {
  const random = new SeededRandom();
  for (let round = 0; round < 2000; round += 1) {
    const bytes = Buffer.from(random.bytes(random.integer(200)));
    expect(parseEvents(bytes).length, `SEED=${random.seed}`).toBeLessThanOrEqual(bytes.length / 16);
  }
});
