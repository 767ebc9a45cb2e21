import { SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import { baseName, isWithin, joinPath, shownPath } from "./disk-path.ts";
import { errnoName, errnoOf, systemError, toConnectError } from "./file-errors.ts";
import { keepaliveMsOf } from "./keepalive.ts";
import { isOnNetworkMount, parseMounts } from "./mounts.ts";
import { permissionText } from "./permission-text.ts";
import { isNameless, newStagingName, rememberNameless, stagingPurpose } from "./staging-name.ts";
import { WatchedFolder } from "./watched-folder.ts";

test.each([
  [0o100644, "-rw-r--r--"],
  [0o040755, "drwxr-xr-x"],
  [0o120777, "lrwxrwxrwx"],
  [0o104755, "-rwsr-xr-x"],
  [0o104644, "-rwSr--r--"],
  [0o102711, "-rwx--s--x"],
  [0o041777, "drwxrwxrwt"],
  [0o041776, "drwxrwxrwT"],
  [0o020620, "crw--w----"],
  [0o060660, "brw-rw----"],
  [0o010600, "prw-------"],
  [0o140000, "s---------"],
  [0, "----------"],
])("mode %o reads %s", (mode, text) => {
  expect(permissionText(mode)).toBe(text);
});

describe("mounts", () => {
  const table = parseMounts(
    [
      "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
      "30 22 0:25 / /mnt/s3 rw,nosuid master:3 - fuse.s3fs s3fs rw,user_id=0",
      "31 22 0:26 / /mnt/with\\040space rw shared:2 master:1 - nfs4 server:/x rw",
      "32 22 0:27 / /mnt/tmp rw - tmpfs tmpfs rw",
      "33 30 0:28 / /mnt/s3/local rw - tmpfs tmpfs rw",
      "34 22 0:29 / /hidden rw - 9p share rw",
      "35 34 0:30 / /hidden rw - tmpfs tmpfs rw",
      "garbage",
      "",
    ].join("\n"),
  );

  test.each([
    ["/", false],
    ["/mnt", false],
    ["/mnt/s3", true],
    ["/mnt/s3/a/b", true],
    ["/mnt/s3-not", false],
    ["/mnt/s3/local/a", false],
    ["/mnt/with space/x", true],
    ["/mnt/tmp", false],
    ["/hidden/x", false],
  ])("%s is on a network mount: %s", (path, expected) => {
    expect(isOnNetworkMount(path, table)).toBe(expected);
  });

  test("a table of nonsense has no network mounts, and does not fail", () => {
    const random = new SeededRandom();
    for (let round = 0; round < 500; round += 1) {
      const text = Buffer.from(random.bytes(200)).toString("latin1");
      expect(isOnNetworkMount("/x", parseMounts(text)), `SEED=${random.seed}`).toBe(false);
    }
  });
});

test("paths join and compare by parts, text or bytes", () => {
  expect(joinPath("/", "a")).toBe("/a");
  expect(joinPath("/a", "b")).toBe("/a/b");
  expect(joinPath("/a", Buffer.from([0xff]))).toEqual(Buffer.from([0x2f, 0x61, 0x2f, 0xff]));
  expect(shownPath(Buffer.from([0x61, 0xff]))).toBe("a\u{FFFD}");
  expect([baseName("/a/b"), baseName("/"), baseName("a")]).toEqual(["b", "", "a"]);
  expect([isWithin("/a/b", "/a"), isWithin("/ab", "/a"), isWithin("/a", "/a"), isWithin("/x", "/")]).toEqual([true, false, true, true]);
});

test("errors of system calls keep their name and become codes", () => {
  expect(errnoName(2)).toBe("ENOENT");
  expect(errnoOf(systemError("linkat", -28, "/x"))).toBe("ENOSPC");
  expect(errnoOf(new Error("plain"))).toBeUndefined();
  expect(toConnectError(systemError("mkdir", -28, "/x"), "/x").rawMessage).toBe("/x: not enough disk space available");
  expect(toConnectError(new TypeError("internals"), "/x").rawMessage).toBe("/x: failed");
});

test.each([
  [undefined, 90_000],
  ["50", 50_000],
  ["0", 1_000],
  ["-5", 90_000],
  ["1e9", 90_000],
  ["99999999", 3_600_000],
  ["", 90_000],
])("Keepalive-Ping-Interval %j is %i ms", (header, ms) => {
  expect(keepaliveMsOf(new Headers(header === undefined ? {} : { "keepalive-ping-interval": header }))).toBe(ms);
});

test("staging names are new each time, short, and tell what they are for; other names are none", () => {
  const names = Array.from({ length: 1000 }, (_, index) => newStagingName(index % 2 === 0));
  expect(new Set(names).size).toBe(1000);
  expect([stagingPurpose(names[0] ?? ""), stagingPurpose(names[1] ?? "")]).toEqual(["replace", "create"]);
  expect(Math.max(...names.map((name) => name.length))).toBeLessThan(48);
  for (const name of ["", ".roost-", ".roost-000000000000-1-replace", "file", Buffer.from([0xff])])
    expect(stagingPurpose(name)).toBeUndefined();
});

test("files without a name are known for a while, not for ever", () => {
  rememberNameless(1);
  expect([isNameless("#1"), isNameless("1"), isNameless("#2")]).toEqual([true, false, false]);
  for (let inode = 10; inode < 5000; inode += 1) rememberNameless(inode);
  expect([isNameless("#1"), isNameless("#4999")]).toEqual([false, true]);
});

test("a watched folder knows its path through moves, and who is under it", () => {
  const root = new WatchedFolder(1, "/w");
  const a = new WatchedFolder(2, "a", root);
  const b = new WatchedFolder(3, Buffer.from([0xff]), a);
  expect([root.relative, a.path, a.relative]).toEqual(["", "/w/a", "a"]);
  expect(Buffer.from(b.relative)).toEqual(Buffer.from([0x61, 0x2f, 0xff]));
  const c = new WatchedFolder(4, "c", root);
  a.attach(c, "moved");
  expect([a.path, root.child("a"), c.child("moved")]).toEqual(["/w/c/moved", undefined, a]);
  expect([...c.all()].map((folder) => folder.watch)).toEqual([4, 2, 3]);
  c.detach();
  expect([...root.all()]).toEqual([root]);
});
