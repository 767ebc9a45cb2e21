import { createRequire } from "node:module";

import { assert } from "@roost/kit";
import type Koffi from "koffi";

/**
 * The few calls of libc that Node has no door to: extended attributes, inotify, sync, and linkat for files without a name.
 *
 * Through koffi (FFI) because it is prebuilt and costs nothing until the first call: 7 ms and 3.5 MiB then, 2 µs per
 * call. Its own loader asks /proc/self/exe which libc this is, and inside the guest that is the agent disk's ld.so
 * which cannot say, so the native file is loaded by its path.
 *
 * Paths go in as bytes, not strings: a name on a Linux disk need not be UTF-8.
 */
export interface Libc {
  /** `bytes` that were written to `out`, or a negative errno. An `out` of length 0 asks for the length. */
  listXattrs(path: string | Buffer, out: Buffer): number;
  /** As `listXattrs`, of one attribute's value. Neither follows a symbolic link. */
  getXattr(path: string | Buffer, name: string, out: Buffer): number;
  /** 0 or a negative errno. Follows symbolic links: callers name a file they hold open, through /proc/self/fd. */
  setXattr(path: string, name: string, value: Buffer): number;
  /** Gives the file behind a descriptor a name; 0 or a negative errno. */
  linkDescriptor(descriptor: number, path: string): number;
  /** A new non-blocking inotify descriptor, or a negative errno. */
  inotifyInit(): number;
  /** A watch descriptor, or a negative errno. */
  inotifyAdd(descriptor: number, path: string | Buffer, mask: number): number;
  inotifyRemove(descriptor: number, watch: number): number;
  /** Resolves when all file systems are on their disks; works in a thread. */
  sync(): Promise<void>;
  /** Calls back on the event loop whenever the descriptor can be read, until closed. */
  pollReadable(descriptor: number, onReadable: () => void): { close(): void };
}

type NativeCall = (...args: readonly unknown[]) => number | bigint;

const atFdCwd = -100;
const atSymlinkFollow = 0x400;
const inNonblock = 0o4000;
const inCloexec = 0o2000000;

let loaded: Libc | undefined;

/** Loads on first use. Throws where the native file is missing: a build error, not a state of the guest. */
export function libc(): Libc {
  loaded ??= bind(loadKoffi());
  return loaded;
}

/** The same path from source and beside the bundle, where the build puts it. */
const nativeFile = "@koromix/koffi-linux-x64/linux_x64/koffi.node";

function loadKoffi(): typeof Koffi {
  return createRequire(import.meta.url)(nativeFile) as typeof Koffi;
}

function bind(koffi: typeof Koffi): Libc {
  const library = koffi.load("libc.so.6");
  const declare = (name: string, result: string, parameters: string[]): NativeCall => library.func(name, result, parameters);
  const checked = (native: NativeCall): NativeCall => {
    return (...args) => {
      const result = Number(native(...args));
      return result < 0 ? -koffi.errno() : result;
    };
  };
  const bytes = "uint8_t *";
  const listXattrs = checked(declare("llistxattr", "int64", [bytes, bytes, "size_t"]));
  const getXattr = checked(declare("lgetxattr", "int64", [bytes, "str", bytes, "size_t"]));
  const setXattr = checked(declare("setxattr", "int", ["str", "str", bytes, "size_t", "int"]));
  const linkAt = checked(declare("linkat", "int", ["int", "str", "int", "str", "int"]));
  const sync = library.func("sync", "void", []);
  const inotifyInit = checked(declare("inotify_init1", "int", ["int"]));
  const inotifyAdd = checked(declare("inotify_add_watch", "int", ["int", bytes, "uint32"]));
  const inotifyRemove = checked(declare("inotify_rm_watch", "int", ["int", "int"]));
  return {
    listXattrs: (path, out) => Number(listXattrs(terminated(path), out, out.length)),
    getXattr: (path, name, out) => Number(getXattr(terminated(path), name, out, out.length)),
    setXattr: (path, name, value) => Number(setXattr(path, name, value, value.length, 0)),
    linkDescriptor: (descriptor, path) => Number(linkAt(atFdCwd, `/proc/self/fd/${descriptor}`, atFdCwd, path, atSymlinkFollow)),
    inotifyInit: () => Number(inotifyInit(inNonblock | inCloexec)),
    inotifyAdd: (descriptor, path, mask) => Number(inotifyAdd(descriptor, terminated(path), mask)),
    inotifyRemove: (descriptor, watch) => Number(inotifyRemove(descriptor, watch)),
    sync: async () =>
      new Promise((resolve, reject) => {
        sync.async((error: Error | null) => (error === null ? resolve() : reject(error)));
      }),
    pollReadable: (descriptor, onReadable) => {
      const handle = koffi.node.poll(descriptor, { readable: true }, () => onReadable());
      return {
        close: () => {
          handle.stop();
          handle.close();
        },
      };
    },
  };
}

const nul = Buffer.from([0]);

function terminated(path: string | Buffer): Buffer {
  const bytes = typeof path === "string" ? Buffer.from(path) : path;
  assert(!bytes.includes(0), "paths are checked for NUL where they come in");
  return Buffer.concat([bytes, nul]);
}
