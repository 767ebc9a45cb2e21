import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  chmodSync,
  lchownSync,
  existsSync,
  readdirSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

import { MiB } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { busyboxPath } from "./guest-command.ts";
import {
  findAccountScript,
  makeAccountScript,
  makeFolderScript,
  matchScript,
  packScript,
  placeScript,
  removeScript,
  unpackScript,
} from "./scripts.ts";

/** The scripts in roots of their own, with nothing in them but the agent disk's BusyBox: what an image without a shell has. */
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "roost-scripts-"));
  mkdirSync(join(root, dirname(busyboxPath)), { recursive: true });
  copyFileSync("/bin/busybox", join(root, busyboxPath));
  mkdirSync(join(root, "sys")); // every guest has it
  spawnSync("/usr/bin/mount", ["--bind", root, root]); // as a guest's root is one: a namespace of mounts can be made in it
});
afterEach(() => {
  spawnSync("/usr/bin/umount", ["--lazy", root]);
  rmSync(root, { recursive: true, force: true });
});

function script(text: string, args: readonly string[], input?: Buffer) {
  const { status, stdout, stderr } = spawnSync("/usr/sbin/chroot", [root, busyboxPath, "sh", "-c", text, "roost", ...args], {
    env: {},
    maxBuffer: 16 * MiB, // BusyBox itself among it
    ...(input === undefined ? {} : { input }),
  });
  return { status, stdout, said: stdout.toString(), error: stderr.toString().trim() };
}

function write(path: string, content = path, mode = 0o644): void {
  mkdirSync(join(root, dirname(path)), { recursive: true });
  writeFileSync(join(root, path), content);
  chmodSync(join(root, path), mode);
}

const read = (path: string) => readFileSync(join(root, path), "utf8");
const ownerOf = (path: string) => {
  const { uid, gid } = lstatSync(join(root, path));
  return `${uid}:${gid}`;
};
const modeOf = (path: string) => (lstatSync(join(root, path)).mode & 0o7777).toString(8);

describe("accounts", () => {
  test("are found by name and number, with a group or without", () => {
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\nlast:x:7:7::/:");
    write("etc/group", "wheel:x:10:user\nusers:x:100:");
    for (const [asked, found] of [
      ["user", "user:1000:1001:/home/user"],
      ["1000", "user:1000:1001:/home/user"],
      ["user:wheel", "user:1000:10:/home/user"],
      ["user:55", "user:1000:55:/home/user"],
      ["last", "last:7:7:/"],
      ["", "root:0:0:/root"],
      ["nobody-here", ""],
    ] as const) {
      expect(script(findAccountScript, [asked]).said.trim(), asked).toBe(found);
    }
    expect(script(findAccountScript, ["user:nogroup"])).toMatchObject({ status: 1, error: "there is no group 'nogroup'" });
  });

  test("are made where they are missing, once", () => {
    expect(script(findAccountScript, ["root"]).said.trim()).toBe("root:0:0:/root");
    write("etc/sudoers.d/README");
    write("etc/shadow", "root:*:1::::::\n");
    write("etc/skel/.profile", "hello", 0o600);
    expect(script(makeAccountScript, ["user"])).toMatchObject({ status: 0, said: "user:1000:1000:/home/user\n" });
    expect(script(makeAccountScript, ["user"]).said).toBe("user:1000:1000:/home/user\n");
    expect(script(makeAccountScript, ["4321"]).said).toBe("user-4321:4321:4321:/home/user-4321\n");
    expect(script(makeAccountScript, ["other"]).said).toBe("other:1001:1001:/home/other\n");
    expect(read("etc/passwd").match(/^user:/gm)).toHaveLength(1);
    expect(read("etc/shadow")).toContain("user:*:");
    expect([ownerOf("home/user/.profile"), modeOf("home/user/.profile"), modeOf("etc/sudoers.d/roost-user")]).toEqual([
      "1000:1000",
      "600",
      "440",
    ]);
  });

  test("a name is never part of a script", () => {
    script(makeAccountScript, ["$(touch /broken)"]);
    script(findAccountScript, ["`touch /broken`"]);
    expect(existsSync(join(root, "broken"))).toBe(false);
  });
});

test("a missing folder is made, and what of it is new has the owner", () => {
  mkdirSync(join(root, "srv"));
  expect(script(makeFolderScript, ["/srv/a/b c", "1000:1000"])).toMatchObject({ status: 0 });
  expect([ownerOf("srv"), ownerOf("srv/a"), ownerOf("srv/a/b c")]).toEqual(["0:0", "1000:1000", "1000:1000"]);
  expect(script(makeFolderScript, ["/srv/a", "7:7"])).toMatchObject({ status: 0 });
  expect(ownerOf("srv/a")).toBe("1000:1000");
  write("file");
  expect(script(makeFolderScript, ["/file/x", "0:0"])).toMatchObject({ status: 1, error: "/file is not a folder" });
});

describe("copies", () => {
  /** Packs `from` of this root's `context`, unpacks it, and puts `entry` of it in its place. */
  function copy(entry: string, destination: string, { owner = "", mode = "", from = "." } = {}) {
    const packed = script(packScript, ["/context", from]);
    expect(packed.status, packed.error).toBe(0);
    const unpacked = script(unpackScript, ["/.copy", "", "strict"], packed.stdout);
    expect(unpacked.status, unpacked.error).toBe(0);
    const placed = script(placeScript, ["/.copy", entry, destination, owner, mode]);
    expect(script(removeScript, ["/.copy"]).status).toBe(0);
    expect(existsSync(join(root, ".copy"))).toBe(false);
    return placed;
  }

  test("a folder's content goes into the destination, with links, modes, empty folders and odd names", () => {
    write("context/src/run", "#!/bin/sh", 0o755);
    write("context/src/.hidden");
    write("context/src/with space\nand line", "odd");
    write("context/src/-n", "dash");
    mkdirSync(join(root, "context/src/empty"));
    symlinkSync("run", join(root, "context/src/link"));
    symlinkSync("/nowhere", join(root, "context/src/dangling"));
    write("context/src/suid", "x", 0o4755);
    expect(copy("src", "/app/", { owner: "1000:1000" })).toMatchObject({ status: 0, error: "" });
    expect(readdirSync(join(root, "app")).sort()).toEqual([
      "-n",
      ".hidden",
      "dangling",
      "empty",
      "link",
      "run",
      "suid",
      "with space\nand line",
    ]);
    expect([modeOf("app/run"), modeOf("app/suid"), ownerOf("app"), ownerOf("app/suid"), ownerOf("app/dangling")]).toEqual([
      "755",
      "4755",
      "1000:1000",
      "1000:1000",
      "1000:1000",
    ]);
    expect([readlinkSync(join(root, "app/link")), readlinkSync(join(root, "app/dangling"))]).toEqual(["run", "/nowhere"]);
  });

  test("what is there already: folders are filled and stay what they are, files are replaced, links to folders are followed", () => {
    write("context/etc/conf", "new");
    write("context/lib/new.so");
    write("context/link-target", "new");
    mkdirSync(join(root, "target/usr/lib"), { recursive: true });
    symlinkSync("usr/lib", join(root, "target/lib"));
    write("target/etc/conf", "old");
    write("target/etc/kept", "kept");
    chmodSync(join(root, "target/etc"), 0o700);
    lchownSync(join(root, "target/etc"), 5, 5);
    write("outside", "untouched");
    symlinkSync("/outside", join(root, "target/link-target"));
    expect(copy(".", "/target", { owner: "1:1" })).toMatchObject({ status: 0, error: "" });
    expect([read("target/etc/conf"), read("target/etc/kept"), read("target/usr/lib/new.so"), read("outside")]).toEqual([
      "new",
      "kept",
      "context/lib/new.so",
      "untouched",
    ]);
    expect([modeOf("target/etc"), ownerOf("target/etc"), ownerOf("target/etc/conf")]).toEqual(["700", "5:5", "1:1"]);
    expect(lstatSync(join(root, "target/link-target")).isSymbolicLink()).toBe(false);
  });

  test("a file becomes the destination, or goes into a folder", () => {
    write("context/a/file", "a");
    mkdirSync(join(root, "there"));
    for (const [destination, path] of [
      ["/new/name", "new/name"],
      ["/new2/", "new2/file"],
      ["/there", "there/file"],
      ["/new/name", "new/name"],
    ] as const) {
      expect(copy("a/file", destination, { mode: "0640" })).toMatchObject({ status: 0, error: "" });
      expect([read(path), modeOf(path)]).toEqual(["a", "640"]);
    }
    symlinkSync("file", join(root, "context/a/link"));
    expect(copy("a/link", "/linked")).toMatchObject({ status: 0 });
    expect(readlinkSync(join(root, "linked"))).toBe("file");
  });

  test("what cannot be is said", () => {
    write("context/a/x/y");
    write("context/file");
    write("file");
    write("t/x");
    mkdirSync(join(root, "t2/file"), { recursive: true });
    expect(copy("missing", "/x")).toMatchObject({ status: 1, error: "it is not in the archive" });
    expect(copy("a", "/t")).toMatchObject({ status: 1, error: "/t/x is there and no folder" });
    expect(copy("file", "/t2/")).toMatchObject({ status: 1, error: "/t2/file is there and a folder" });
    expect(copy("a", "/file/x").status).toBe(1);
    expect(script(unpackScript, ["/.copy", "", "strict"], Buffer.from("no archive at all"))).toMatchObject({ status: 1 });
  });

  /** An archive of `context`, whose names and links `transform` changes as GNU tar's option does. */
  const crafted = (transform: string, ...entries: readonly string[]) => {
    const options = ["-c", "-P", "-f", "-", "-C", join(root, "context"), `--transform=${transform}`];
    const { stdout, status } = spawnSync("tar", [...options, ...entries]);
    expect(status).toBe(0);
    return stdout;
  };

  test("an archive cannot leave its folder, and says so", () => {
    write("context/real", "x");
    write("outside", "mine");
    linkSync(join(root, "context/real"), join(root, "context/twin"));
    symlinkSync("/", join(root, "context/slash"));
    const leads = expect.stringContaining("leads out of it") as string;
    const attempts = [
      [crafted("flags=r;s,real,../../../escaped,", "real"), leads],
      [crafted("flags=r;s,real,/escaped,", "real"), leads],
      [crafted("flags=r;s,real,slash/escaped,", "slash", "real"), expect.stringContaining("can't create symlink") as string],
      [crafted("flags=h;s,real,/outside,", "real", "twin"), expect.stringContaining("can't create hardlink 'twin'") as string],
      [crafted("flags=h;s,real,../outside,", "real", "twin"), expect.stringContaining("can't create hardlink 'twin'") as string],
    ] as const;
    for (const [index, [archive, error]] of attempts.entries())
      expect(script(unpackScript, [`/deep-${index}`, "", ""], archive)).toMatchObject({ status: 1, error });
    expect(existsSync(join(root, "escaped"))).toBe(false);
    expect([read("outside"), lstatSync(join(root, "outside")).nlink]).toEqual(["mine", 1]);
  });

  test("devices and pipes are refused in what was uploaded, and copied from a stage", () => {
    mkdirSync(join(root, "context"));
    spawnSync("mkfifo", [join(root, "context/pipe")]);
    const archive = crafted("s,x,x,", "pipe");
    expect(script(unpackScript, ["/a", "", "strict"], archive)).toMatchObject({
      status: 1,
      error: "the archive has a device, a pipe or a socket: pipe",
    });
    expect(script(unpackScript, ["/b", "", ""], archive)).toMatchObject({ status: 0 });
  });
});

test("a whole root is packed without what is mounted in it", () => {
  write("app", "x");
  mkdirSync(join(root, "proc"));
  spawnSync("/usr/bin/mount", ["-t", "proc", "proc", join(root, "proc")]);
  const { status, stdout, error } = script(packScript, ["/", "."]);
  expect(status, error).toBe(0);
  const names = spawnSync("tar", ["-t"], { input: stdout }).stdout.toString().split("\n");
  expect(names).toEqual(expect.arrayContaining(["./app", "./proc/"]));
  expect(names.filter((name) => name.startsWith("./proc/"))).toEqual(["./proc/"]);
});

test("a pattern in a stage finds what a shell finds, and names with spaces are one", () => {
  write("app/a.js");
  write("app/b c.js");
  mkdirSync(join(root, "app/dist"));
  const found = (pattern: string) => script(matchScript, [pattern]).said.split("\0").filter(Boolean);
  expect(found("/app/*.js")).toEqual(["f /app/a.js", "f /app/b c.js"]);
  expect(found("/app/b c.js")).toEqual(["f /app/b c.js"]);
  expect(found("/app/d*")).toEqual(["d /app/dist"]);
  expect(found("/none/*")).toEqual([]);
});
