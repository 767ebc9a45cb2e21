import { stat } from "node:fs/promises";

import { pageBytes } from "../vmm/driver.ts";
import { runKinds, runPagesMax, RunTable } from "./diff-format.ts";
import { openFile, readFullySync } from "./file-io.ts";
import { Pace } from "./pace.ts";

const zeroPage = Buffer.alloc(pageBytes);

/** Whether the page at `offset` of `bytes` is all zeros. */
export function isZero(bytes: Buffer, offset: number): boolean {
  return zeroPage.compare(bytes, offset, offset + pageBytes) === 0; // ends at the first byte that differs
}

/** The same of as many bytes as there are: the first is zero, and each is what the one before is. */
export function areZeros(bytes: Buffer): boolean {
  return bytes.length === 0 || (bytes[0] === 0 && bytes.subarray(1).equals(bytes.subarray(0, -1)));
}

/** Whether a file is one hole: zeros without a block on the disk. Our base files are fsynced, so blocks are not merely still to come. */
export async function isHole(path: string): Promise<boolean> {
  return (await stat(path)).blocks === 0;
}

/**
 * The runs of a diff without the zero pages that are zero in the base file, too. To write those at a restore would give the guest a private page of
 * zeros for each, where the file's own does. A guest frees memory all the time, and freed memory is zero.
 */
export async function withoutZerosOf(baseFile: string, table: RunTable): Promise<RunTable> {
  if (table.zeroPages === 0) return table;
  const base = (await isHole(baseFile)) ? undefined : await openFile(baseFile, "r");
  try {
    const kept = new RunTable();
    const pace = new Pace();
    const buffer = Buffer.allocUnsafeSlow(runPagesMax * pageBytes);
    for (let index = 0; index < table.length; index += 1) {
      const run = table.run(index);
      if (run.kind === runKinds.data) kept.addRun(run);
      else if (base !== undefined) {
        // Many short runs that lie scattered, and in the page cache: the guest's first write to each of these pages copied it from there.
        // So they are read at once; a way through the thread pool for each would take ten times as long.
        const pages = buffer.subarray(0, run.pageCount * pageBytes);
        readFullySync(base.fd, pages, run.firstPage * pageBytes);
        for (let page = 0; page < run.pageCount; page += 1) {
          if (!isZero(pages, page * pageBytes)) kept.addPage(run.firstPage + page, runKinds.zero);
        }
        if (pace.isDue) await pace.turn();
      }
    }
    return kept;
  } finally {
    await base?.close();
  }
}
