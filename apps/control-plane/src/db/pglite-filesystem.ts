import { fsyncSync } from "node:fs";

import { PGlite } from "@electric-sql/pglite";
import { NodeFS } from "@electric-sql/pglite/nodefs";

/**
 * PGlite's own Node file system, plus durability.
 *
 * As it comes, PGlite runs with `-F` (no fsync), and its file system would ignore an fsync anyway: a commit is safe from
 * the death of the process (the kernel has the bytes) but not from the death of the machine, after which the data files
 * may not even fit together. Emscripten's `fd_sync` calls `stream_ops.fsync` where there is one; NODEFS has none, so we
 * add it. `fdatasync` is a no-op in Emscripten, hence `wal_sync_method=fsync`. One commit is then one fsync of the log.
 * Folders cannot be opened through Emscripten; on ext4 and xfs the fsync of a file also commits earlier renames.
 */
export class DurableNodeFs extends NodeFS {
  override async init(pglite: PGlite, options: Parameters<NodeFS["init"]>[1]): ReturnType<NodeFS["init"]> {
    const made = await super.init(pglite, options);
    const addFsync = (module: object) => {
      const operations = (module as EmscriptenModule).NODEFS.stream_ops;
      operations["fsync"] = (stream: { readonly nfd?: number }) => {
        if (stream.nfd !== undefined) fsyncSync(stream.nfd);
        return 0;
      };
    };
    return { ...made, emscriptenOpts: { ...made.emscriptenOpts, preRun: [...(made.emscriptenOpts.preRun ?? []), addFsync] } };
  }
}

interface EmscriptenModule {
  readonly NODEFS: { readonly stream_ops: Record<string, unknown> };
}

/** PGlite's start parameters with fsync on, and buffers of a size that fits tables of thousands of rows, not millions. */
export const durableStartParams: readonly string[] = [
  ...PGlite.defaultStartParams.filter((param) => param !== "-F"),
  "-c",
  "wal_sync_method=fsync",
  "-c",
  "shared_buffers=8MB",
];
