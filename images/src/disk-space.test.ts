import { tmpdir } from "node:os";

import { expect, test } from "vitest";

import { requireDiskSpace } from "./disk-space.ts";

test("too little space is said before anything is written, with what to do", async () => {
  await expect(requireDiskSpace(tmpdir(), 2 ** 60)).rejects.toThrow(
    /needs .* of free space in .*, which has .*; make room there, or set ROOST_CACHE_DIR/,
  );
  await requireDiskSpace(tmpdir(), 1);
});
