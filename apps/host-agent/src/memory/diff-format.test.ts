import { crc32 } from "node:zlib";

import fc from "fast-check";
import { expect, test } from "vitest";

import { pageBytes } from "../vmm/driver.ts";
import { dataWindows, decodeHeader, decodeTable, encodeHeader, runKinds, RunTable, windowBytes, type DiffRun } from "./diff-format.ts";

const memoryBytes = 4096 * pageBytes;

function tableOf(...runs: DiffRun[]): RunTable {
  const table = new RunTable();
  for (const run of runs) table.addRun(run);
  return table;
}

/** What a writer with these runs would have written, with right checksums whatever the runs are. */
function decode(table: RunTable, overrides: Partial<Parameters<typeof encodeHeader>[0]> = {}): RunTable {
  const bytes = table.encode();
  const { dataPages, zeroPages, length: runs } = table;
  const header = decodeHeader(encodeHeader({ memoryBytes, runs, dataPages, zeroPages, tableCrc: crc32(bytes), ...overrides }));
  return decodeTable(bytes, header);
}

const data = (firstPage: number, pageCount: number): DiffRun => ({ firstPage, pageCount, kind: runKinds.data, crc: 1 });
const zero = (firstPage: number, pageCount: number): DiffRun => ({ firstPage, pageCount, kind: runKinds.zero, crc: 0 });

test("pages that follow each other make runs, of at most 1024 pages", () => {
  const table = new RunTable();
  for (let page = 5; page < 2100; page += 1) table.addPage(page, page === 2090 ? runKinds.zero : runKinds.data);
  const runs = Array.from({ length: table.length }, (_, index) => table.run(index));
  expect(runs.map(({ firstPage, pageCount, kind }) => [firstPage, pageCount, kind])).toEqual([
    [5, 1024, 1],
    [1029, 1024, 1],
    [2053, 37, 1],
    [2090, 1, 2],
    [2091, 9, 1],
  ]);
  expect([table.dataPages, table.zeroPages]).toEqual([2094, 1]);
});

test("a table comes back as it was", () => {
  const decoded = decode(tableOf(data(0, 1024), zero(1024, 3), data(4095, 1)));
  expect([decoded.length, decoded.dataPages, decoded.zeroPages]).toEqual([3, 1025, 3]);
  expect(decoded.run(2)).toEqual(data(4095, 1));
});

test("what no writer writes is refused, also when its checksums are right", () => {
  expect(() => decode(tableOf(data(1, 2), data(2, 1)))).toThrow("overlap");
  expect(() => decode(tableOf(data(5, 1), data(2, 1)))).toThrow("not in order");
  expect(() => decode(tableOf(data(4095, 2)))).toThrow("beyond the end");
  expect(() => decode(tableOf(data(0, 1025)))).toThrow("a run of 1025 pages");
  expect(() => decode(tableOf(data(0, 0), zero(3, 5)))).toThrow("a run of 0 pages");
  expect(() => decode(tableOf({ ...zero(0, 1), crc: 7 }))).toThrow("zero run with a checksum");
  expect(() => decode(tableOf({ ...data(0, 1), kind: 3 as 1 }), { dataPages: 1, zeroPages: 0 })).toThrow("unknown kind");
  expect(() => decode(tableOf(data(0, 1)), { dataPages: 2 })).toThrow("as many pages");
  expect(() => decode(tableOf(data(0, 1)), { runs: 2, dataPages: 2 })).toThrow("another length");
  expect(() => decode(tableOf(data(0, 1)), { runs: 2 })).toThrow("more runs than pages");
  expect(() => decode(tableOf(data(0, 1)), { tableCrc: 1 })).toThrow("checksum");
  expect(() => decode(tableOf(), { memoryBytes: pageBytes, dataPages: 2 })).toThrow("more pages than its memory");
  expect(() => decode(tableOf(), { memoryBytes: 100 })).toThrow("more pages than its memory");
});

test("windows cover all runs once, in order, and none is larger than what is read at once", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 1024 }), fc.boolean()), { maxLength: 60 }), (shape) => {
      const table = new RunTable();
      let page = 0;
      for (const [count, isZero] of shape) {
        table.addRun(isZero ? zero(page, count) : data(page, count));
        page += count;
      }
      let run = 0;
      let offset = pageBytes;
      for (const window of dataWindows(table)) {
        expect([window.firstRun, window.offset]).toEqual([run, offset]);
        expect(window.length).toBeLessThanOrEqual(windowBytes);
        run = window.endRun;
        offset += window.length;
      }
      expect([run, offset]).toEqual([table.length, pageBytes + table.dataPages * pageBytes]);
    }),
  );
});
