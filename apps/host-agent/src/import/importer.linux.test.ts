import { chmod, lchown, link, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { Cleanup, must, run } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Importer, ImportOutcome, ImportSource } from "./importer.ts";
import type { ImportProgress } from "./make-image.ts";
import {
  gzipLayer,
  plainLayer,
  rawTar,
  tarOfFolder,
  writeLayout,
  zstdLayer,
  type RawEntry,
  type TestImage,
  type TestLayer,
} from "./testing/oci.ts";
import { openImporter } from "./testing/open-importer.ts";
import { push, startRegistry, type RegistryServer } from "./testing/registry-server.ts";

const noCredentials = { username: "", password: "", token: "" };
/** `user` with the password `right` */
const htpasswd = "user:$2b$04$7.aP6NBwFB64MMWg.gyRCOtKFDyJYiQHiUe14ytR4VEcf3ugDT1Ji\n";

let scratch: string;
let registry: RegistryServer;
let closed: RegistryServer;
const afterwards = new Cleanup();

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-import-"));
  afterwards.defer("remove the files", () => rm(scratch, { recursive: true, force: true }));
  registry = await startRegistry(join(scratch, "open"));
  afterwards.defer("end the registry", () => registry.close());
  closed = await startRegistry(join(scratch, "closed"), htpasswd);
  afterwards.defer("end the registry", () => closed.close());
});

afterAll(() => afterwards.run());

let stateDir: string;
let importer: Importer;

beforeEach(async () => {
  stateDir = await mkdtemp(join(scratch, "state-"));
  importer = await openImporter(stateDir);
});

afterEach(async () => {
  await importer.close();
  const left = await readdir(join(stateDir, "import-cache")).catch(() => []);
  expect(
    left.filter((name) => name !== "blobs"),
    "what imports left in their work folder",
  ).toEqual([]);
  const staged = await readdir(join(stateDir, "imported"));
  expect(
    staged.filter((name) => name.startsWith(".")),
    "what imports left half done",
  ).toEqual([]);
  await rm(stateDir, { recursive: true, force: true });
});

async function bring(
  source: ImportSource,
  options: { readonly refresh?: boolean; readonly signal?: AbortSignal; readonly said?: ImportProgress[] } = {},
): Promise<ImportOutcome> {
  const signal = options.signal ?? new AbortController().signal;
  return importer.import({ source, diskSizeMib: 256, refresh: options.refresh ?? false }, signal, (progress) =>
    options.said?.push(progress),
  );
}

const fromRegistry = (reference: string, credentials = noCredentials): ImportSource => ({ kind: "registry", reference, credentials });

let count = 0;
/** Pushes an image under a name of its own. */
async function pushed(
  image: TestImage,
  where: RegistryServer = registry,
  credentials?: string,
): Promise<{ reference: string; digest: string; layout: string }> {
  count += 1;
  const layout = join(scratch, `layout-${count}`);
  const digest = await writeLayout(layout, image);
  const reference = `${where.host}/test/image${count}:latest`;
  await push(layout, reference, credentials);
  return { reference, digest, layout };
}

async function bringLayers(layers: readonly TestLayer[], config: Record<string, unknown> = {}): Promise<ImportOutcome> {
  return bring(fromRegistry((await pushed({ layers, config })).reference));
}

/** Mounts an image's disk read-only while `look` looks. */
async function mounted<Result>({ image }: ImportOutcome, look: (root: string) => Promise<Result>): Promise<Result> {
  await run(["e2fsck", "-f", "-n", image.path]);
  const root = await mkdtemp(join(scratch, "root-"));
  await run(["mount", "-o", "ro,loop,noload", image.path, root]);
  try {
    return await look(root);
  } finally {
    await run(["umount", root]);
    await rm(root, { recursive: true });
  }
}

/** Everything of a tree that must survive: kinds, owners, modes, times, links, sizes, contents and extended attributes. */
async function describe(root: string): Promise<string[]> {
  const program = `
import os, sys, hashlib
root = sys.argv[1].encode()
seen, lines = {}, []
for folder, folders, files in os.walk(root):
    folders.sort()
    for path in sorted([folder] + [os.path.join(folder, f) for f in files] + [os.path.join(folder, f) for f in folders if os.path.islink(os.path.join(folder, f))]):
        name = os.path.relpath(path, root)
        if name.split(b"/")[0] in (b"lost+found", b"dev", b"proc", b"sys", b"run", b"tmp"): continue
        s = os.lstat(path)
        key = seen.setdefault(s.st_ino, name) if not os.path.isdir(path) or os.path.islink(path) else name
        what = os.readlink(path) if os.path.islink(path) else hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else ""
        attributes = sorted((a, os.getxattr(path, a, follow_symlinks=False)) for a in os.listxattr(path, follow_symlinks=False))
        size = s.st_size if os.path.isfile(path) or os.path.islink(path) else 0
        time = 0 if name == b"." else int(s.st_mtime)
        lines.append(repr((name, key, oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev, size, time, what, attributes)))
print("\\n".join(lines))
`;
  return (await run(["python3", "-c", program, root])).trim().split("\n");
}

/** A tree with all that files can be. */
async function makeTree(root: string): Promise<void> {
  for (const folder of ["bin", "etc", "lib/deep/er", "var/log", "home/user"]) await mkdir(join(root, folder), { recursive: true });
  await writeFile(join(root, "bin/sudo"), "#!/bin/sh\n");
  await lchown(join(root, "bin/sudo"), 0, 4_242);
  await chmod(join(root, "bin/sudo"), 0o6755);
  await writeFile(join(root, "bin/ping"), "ping");
  await run(["setcap", "cap_net_raw+ep", join(root, "bin/ping")]);
  await writeFile(join(root, "etc/noted"), "x");
  await run([
    "python3",
    "-c",
    "import os,sys; os.setxattr(sys.argv[1], 'user.note', b'\\x00\\xff=\\n'); os.setxattr(sys.argv[1], 'trusted.more', b'1')",
    join(root, "etc/noted"),
  ]);
  await chmod(join(root, "var/log"), 0o3775);
  await lchown(join(root, "home/user"), 100_000, 3_000_000_000);
  await lchown(join(root, "etc/noted"), 1_000, 1_000);
  await link(join(root, "bin/sudo"), join(root, "lib/deep/sudo-too"));
  await symlink("../../../../../../etc/passwd", join(root, "etc/outside"));
  await symlink("x".repeat(4_000), join(root, "etc/long-link"));
  await symlink("/etc/noted", join(root, "lib/absolute"));
  await writeFile(join(root, "lib/deep/er", "n".repeat(255)), "long name");
  await writeFile(join(root, "lib", 'odd\nname "and" more'), "odd");
  await writeFile(Buffer.concat([Buffer.from(join(root, "lib/raw-")), Buffer.from([0xff, 0xfe, 0x80])]), "not utf-8");
  await run(["mknod", join(root, "lib/null"), "c", "1", "3"]);
  await run(["mknod", "-m", "0600", join(root, "lib/disk"), "b", "259", "70000"]);
  await run(["mkfifo", join(root, "lib/pipe")]);
  await writeFile(join(root, "var/sparse"), "");
  await truncate(join(root, "var/sparse"), 40 * 1024 * 1024);
  await run(["sh", "-c", 'printf middle | dd of="$1" bs=1 seek=20000000 conv=notrunc status=none', "sh", join(root, "var/sparse")]);
  await utimes(join(root, "etc/noted"), 1_000_000_000, 1_000_000_000);
  await utimes(join(root, "bin"), 1_100_000_000, 1_100_000_000);
}

test("an image's files come out as they went in, whatever its layers are packed with", async () => {
  const tree = join(scratch, "tree");
  await mkdir(tree);
  await makeTree(tree);
  const wanted = await describe(tree);
  const config = {
    User: "1000:1000",
    WorkingDir: "/srv",
    Env: ["PATH=/bin", "A=b=c", "=bad"],
    Entrypoint: ["/bin/sudo"],
    Cmd: ["-l"],
    ExposedPorts: { "8080/tcp": {} },
  };
  const withAttributes = ["--format=posix", "--xattrs", "--xattrs-include=*"];
  const posix = await tarOfFolder(tree, scratch, withAttributes);
  const sparse = await tarOfFolder(tree, scratch, [...withAttributes, "--sparse", "--sparse-version=1.0"]);
  const old = await tarOfFolder(tree, scratch, ["--format=gnu", "--sparse"]);
  const digests = new Set<string>();
  for (const layer of [gzipLayer(posix), await zstdLayer(posix, scratch), plainLayer(sparse)]) {
    const outcome = await bringLayers([layer], config);
    expect(outcome.isNew).toBe(true);
    expect(outcome.image.record.config).toEqual({
      user: "1000:1000",
      workdir: "/srv",
      envs: { PATH: "/bin", A: "b=c" },
      entrypoint: ["/bin/sudo"],
      cmd: ["-l"],
      exposedPorts: ["8080/tcp"],
    });
    expect(outcome.image.record.name).toMatch(/^image-[0-9a-f]{24}$/);
    await mounted(outcome, async (root) => {
      expect(await describe(root)).toEqual(wanted);
      expect((await lstat(join(root, "var/sparse"))).blocks, "holes stay holes").toBeLessThan(100);
      for (const folder of ["proc", "sys", "dev", "run", "tmp"]) expect((await lstat(join(root, folder))).isDirectory()).toBe(true);
    });
    digests.add(outcome.image.record.digest);
  }
  expect(digests.size, "the same files are the same disk").toBe(1);
  // GNU's old format has no extended attributes
  await mounted(await bringLayers([gzipLayer(old)]), async (root) => {
    const withoutAttributes = (lines: readonly string[]) => lines.map((line) => line.replace(/, \[[^\]]*\]\)$/, ""));
    expect(withoutAttributes(await describe(root))).toEqual(withoutAttributes(wanted));
  });
});

test("layers are merged as the specification says", async () => {
  const file = (name: string, data: string, more: Partial<RawEntry> = {}): RawEntry => ({ name, data, ...more });
  const folder = (name: string, mode = 0o755): RawEntry => ({ name, type: "5", mode });
  const layers = [
    [
      folder("./"),
      folder("usr/"),
      folder("usr/lib/"),
      { name: "lib", type: "2", link: "usr/lib" },
      file("a", "1"),
      file("b", "1"),
      folder("full/"),
      file("full/x", "1"),
      file("full/y", "1"),
      folder("gone/"),
      file("gone/z", "1"),
      folder("becomes-file/"),
      file("becomes-file/in", "1"),
      file("becomes-folder", "1"),
      file("moved-from", "moved"),
      folder("kept/", 0o700),
      file("kept/old", "1"),
    ],
    [
      // Before and after what they stand beside
      file("full/new", "2"),
      file("full/.wh..wh..opq", ""),
      file(".wh.gone", ""),
      file(".wh.a", ""),
      file(".wh..wh.plnk", ""),
      file("becomes-file", "2"),
      folder("becomes-folder/"),
      file("becomes-folder/in", "2"),
      file("lib/through-link", "2"),
      { name: "b-too", type: "1", link: "b" },
      { name: "moved-to", type: "1", link: "moved-from" },
      file(".wh.moved-from", ""),
      folder("kept/", 0o711),
    ],
    [file("b", "3"), file("gone/again", "3"), file("implied/deep/file", "3")],
  ].map((entries) => gzipLayer(rawTar(entries)));
  await mounted(await bringLayers(layers), async (root) => {
    const names = (await run(["find", root, "-mindepth", "1", "-printf", "%P %y %m\\n"])).trim().split("\n").sort();
    const expected = `
      b f 644
      b-too f 644
      becomes-file f 644
      becomes-folder d 755
      becomes-folder/in f 644
      dev d 755
      full d 755
      full/new f 644
      gone d 755
      gone/again f 644
      implied d 755
      implied/deep d 755
      implied/deep/file f 644
      kept d 711
      kept/old f 644
      lib l 777
      lost+found d 700
      moved-to f 644
      proc d 555
      run d 755
      sys d 555
      tmp d 1777
      usr d 755
      usr/lib d 755
      usr/lib/through-link f 644
    `;
    expect(names).toEqual(expected.trim().split(/\n\s*/).sort());
    expect(await readFile(join(root, "b"), "utf8")).toBe("3");
    expect(await readFile(join(root, "b-too"), "utf8"), "a link keeps what its target was").toBe("1");
    expect(await readFile(join(root, "moved-to"), "utf8"), "a link to what its own layer hides").toBe("moved");
  });
});

test("many layers, an image without any file, and one for which nothing needs to be done", async () => {
  const layers = Array.from({ length: 60 }, (_, index) =>
    gzipLayer(
      rawTar([
        { name: `file-${index}`, data: String(index) },
        { name: "last", data: String(index) },
      ]),
    ),
  );
  const many = await pushed({ layers });
  const said: ImportProgress[] = [];
  const first = await bring(fromRegistry(many.reference), { said });
  await mounted(first, async (root) => {
    expect(await readFile(join(root, "last"), "utf8")).toBe("59");
    expect(await readFile(join(root, "file-0"), "utf8")).toBe("0");
  });
  expect(new Set(said.map(({ phase }) => phase))).toEqual(new Set(["resolve", "fetch", "unpack", "publish"]));
  expect(first.image.record.sourceDigest).toBe(many.digest);

  said.length = 0;
  const again = await bring(fromRegistry(`${many.reference.replace(":latest", "")}@${many.digest}`), { said });
  expect(again).toEqual({ image: first.image, isNew: false });
  expect(said.map(({ phase }) => phase)).toEqual(["resolve"]);

  await mounted(await bringLayers([gzipLayer(rawTar([]))]), async (root) => {
    expect((await readdir(root)).sort()).toEqual(["dev", "lost+found", "proc", "run", "sys", "tmp"]);
  });
});

test("who asks for the same at once waits for one import, and it ends when all of them have gone", async () => {
  const tar = rawTar([{ name: "data", data: Buffer.alloc(8 * 1024 * 1024, "some data ") }]);
  const { reference } = await pushed({ layers: [gzipLayer(tar)] });
  const outcomes = await Promise.all([1, 2, 3].map(() => bring(fromRegistry(reference))));
  expect(new Set(outcomes.map(({ image }) => image.path)).size).toBe(1);
  expect(outcomes.filter(({ isNew }) => isNew)).toHaveLength(1);

  const other = await pushed({ layers: [gzipLayer(rawTar([{ name: "other", data: Buffer.alloc(8 * 1024 * 1024, "other data ") }]))] });
  const [one, two] = [new AbortController(), new AbortController()];
  const onUnpack = (then: () => void) => (progress: ImportProgress) => {
    if (progress.phase === "unpack") then();
  };
  const request = { source: fromRegistry(other.reference), diskSizeMib: 256, refresh: false };
  const both = [
    importer.import(
      request,
      one.signal,
      onUnpack(() => one.abort()),
    ),
    importer.import(
      request,
      two.signal,
      onUnpack(() => two.abort()),
    ),
  ];
  for (const result of await Promise.allSettled(both)) expect(result.status).toBe("rejected");
  expect(importer.list()).toHaveLength(1);
  expect((await bring(request.source)).isNew, "and can be begun anew").toBe(true);
});

test("archives: OCI layouts and what docker save writes, sent in parts", async () => {
  const tar = rawTar([{ name: "etc/hello", data: "hello" }]);
  const layout = join(scratch, "archived");
  const digest = await writeLayout(layout, { layers: [gzipLayer(tar)], config: { Cmd: ["/etc/hello"] } });
  await run(["tar", "-cf", join(scratch, "layout.tar"), "-C", layout, "."]);
  await run(["skopeo", "copy", "--quiet", `oci:${layout}:image`, `docker-archive:${join(scratch, "saved.tar")}:name:tag`]);
  const send = async (path: string, archiveId: string) => {
    const data = await readFile(path);
    const half = Math.floor(data.length / 2);
    await importer.putArchivePart({ archiveId, offset: 0, data: data.subarray(0, half), isLast: false });
    await expect(importer.putArchivePart({ archiveId, offset: half + 1, data: Buffer.alloc(1), isLast: true })).rejects.toMatchObject({
      code: "request_invalid",
    });
    await importer.putArchivePart({ archiveId, offset: half, data: data.subarray(half), isLast: false });
    await importer.putArchivePart({ archiveId, offset: half, data: data.subarray(half), isLast: true }); // once more: its answer was lost
  };
  for (const [index, file] of ["layout.tar", "saved.tar"].entries()) {
    const archiveId = String(index).repeat(32);
    await send(join(scratch, file), archiveId);
    const outcome = await bring({ kind: "archive", archiveId });
    expect(outcome.image.record.config.cmd).toEqual(["/etc/hello"]);
    if (file === "layout.tar") expect(outcome.image.record.sourceDigest).toBe(digest);
    await mounted(outcome, async (root) => expect(await readFile(join(root, "etc/hello"), "utf8")).toBe("hello"));
    expect((await bring({ kind: "archive", archiveId })).isNew).toBe(false);
  }
  await expect(bring({ kind: "archive", archiveId: "f".repeat(32) })).rejects.toMatchObject({ code: "request_invalid" });
  await send(must(await makeBad(), "a bad archive"), "e".repeat(32));
  await expect(bring({ kind: "archive", archiveId: "e".repeat(32) })).rejects.toMatchObject({ code: "image_unusable" });
});

async function makeBad(): Promise<string> {
  const path = join(scratch, "bad.tar");
  await writeFile(
    path,
    rawTar([
      { name: "../../etc/index.json", data: "{}" },
      { name: "manifest.json", data: '[{"Config":"../../../../etc/passwd","Layers":["/etc/shadow"]}]' },
    ]),
  );
  return path;
}

async function refused(promise: Promise<unknown>): Promise<PlatformError> {
  const error = await promise.then(
    () => undefined,
    (failure: unknown) => failure,
  );
  expect(error, "the import is refused").toBeInstanceOf(PlatformError);
  return error as PlatformError;
}

test("what a registry does not give is told apart", async () => {
  const absent = await refused(bring(fromRegistry(`${registry.host}/test/absent:latest`)));
  expect(absent).toMatchObject({ code: "image_unusable", message: expect.stringContaining("there is no image") as string });

  const { reference } = await pushed({ layers: [gzipLayer(rawTar([{ name: "secret", data: "s" }]))] }, closed, "user:right");
  for (const credentials of [noCredentials, { username: "user", password: "wrong", token: "" }]) {
    const denied = await refused(bring(fromRegistry(reference, credentials)));
    expect(denied).toMatchObject({ code: "image_unusable", message: expect.stringContaining("credentials") as string });
  }
  const outcome = await bring(fromRegistry(reference, { username: "user", password: "right", token: "" }));
  await mounted(outcome, async (root) => expect(await readFile(join(root, "secret"), "utf8")).toBe("s"));
  expect((await refused(bring(fromRegistry(reference)))).code, "what is here already is not for everybody").toBe("image_unusable");

  const foreign = await refused(bring(fromRegistry((await pushed({ layers: [], architecture: "arm64" })).reference)));
  expect(foreign.message).toContain("linux/arm64");
  const nowhere = await refused(bring(fromRegistry("127.0.0.1:1/test/x:y")));
  expect(nowhere.code).toBe("registry_unreachable");
  expect((await refused(bring(fromRegistry("no-such-host.invalid/x")))).code).toBe("registry_unreachable");
  expect((await refused(bring(fromRegistry("--help")))).code).toBe("request_invalid");

  await importer.close();
  importer = await openImporter(stateDir, { registries: new Set(["docker.io"]) });
  expect(await refused(bring(fromRegistry(reference)))).toMatchObject({
    code: "image_unusable",
    message: expect.stringContaining("ROOST_REGISTRIES") as string,
  });
});

test("damaged layers are refused, and one that was damaged on this host is fetched again", async () => {
  const good = gzipLayer(rawTar([{ name: "a", data: "a" }]));
  const lies = await refused(bringLayers([{ ...good, diffId: `sha256:${"0".repeat(64)}` }]));
  expect(lies).toMatchObject({ code: "image_unusable", message: expect.stringContaining("damaged") as string });
  const cut = await refused(bringLayers([{ ...good, data: good.data.subarray(0, good.data.length - 20) }]));
  expect(cut.code).toBe("image_unusable");

  const { reference } = await pushed({ layers: [gzipLayer(rawTar([{ name: "b", data: "b" }]))] });
  const first = await bring(fromRegistry(reference));
  const blobs = join(stateDir, "import-cache/blobs/sha256");
  for (const name of await readdir(blobs)) {
    const data = await readFile(join(blobs, name));
    await writeFile(join(blobs, name), Buffer.alloc(data.length, 1));
  }
  await importer.close();
  await rm(join(stateDir, "imported"), { recursive: true });
  importer = await openImporter(stateDir);
  const again = await bring(fromRegistry(reference));
  expect(again.image.record.digest).toBe(first.image.record.digest);
});

test("hostile layers are refused with a reason, and touch nothing", async () => {
  const cases: readonly (readonly [string, readonly RawEntry[], RegExp])[] = [
    ["a path out of the image", [{ name: "../../../../etc/cron.d/evil", data: "x" }], /leads outside/],
    ["a link out of the image", [{ name: "shadow", type: "1", link: "../../../etc/shadow" }], /leads outside/],
    ["a link to nothing", [{ name: "shadow", type: "1", link: "/etc/shadow" }], /not in the image/],
    [
      "a circle",
      [
        { name: "a", type: "2", link: "b" },
        { name: "b", type: "2", link: "a" },
        { name: "a/x", data: "x" },
      ],
      /circle/,
    ],
    [
      "a file below a file",
      [
        { name: "a", data: "x" },
        { name: "a/b", data: "x" },
      ],
      /not a folder/,
    ],
    ["an unknown type", [{ name: "a", type: "Z" }], /unknown type/],
    ["a long name", [{ name: "a", data: "x", pax: { path: "n".repeat(256) } }], /more than 255 bytes/],
    [
      "a huge file",
      [
        { name: "a", type: "5" },
        { name: "big", data: "x", pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9999999999" } },
      ],
      /damaged|more than/,
    ],
    ["large attributes", [{ name: "a", data: "x", pax: { "SCHILY.xattr.user.a": "v".repeat(5_000) } }], /extended attributes/],
    ["an empty link", [{ name: "a", type: "2", link: "" }], /empty target/],
  ];
  for (const [what, entries, reason] of cases) {
    const failure = await refused(bringLayers([gzipLayer(rawTar(entries))]));
    expect(failure, what).toMatchObject({ code: "image_unusable", message: expect.stringMatching(reason) as string });
  }
  const bomb = await refused(bringLayers([gzipLayer(rawTar([{ name: "zeros", data: Buffer.alloc(600 * 1024 * 1024) }]))]));
  expect(bomb.message).toContain("ROOST_IMPORT_MAX_MIB");
  // Links within the image lead about in it, whatever they say
  const within: RawEntry[] = [
    { name: "srv", type: "5", mode: 0o755 },
    { name: "etc", type: "2", link: "/../../srv" },
    { name: "etc/made", data: "in" },
  ];
  await mounted(await bringLayers([gzipLayer(rawTar(within))]), async (root) => {
    expect(await readFile(join(root, "srv/made"), "utf8")).toBe("in");
  });
});

test("images that nobody needs are removed, those that somebody needs stay", async () => {
  const [one, two, three] = [
    await bringLayers([gzipLayer(rawTar([{ name: "one", data: "1" }]))]),
    await bringLayers([gzipLayer(rawTar([{ name: "two", data: "2" }]))]),
    await bringLayers([gzipLayer(rawTar([{ name: "three", data: "3" }]))]),
  ];
  const age = async (outcome: ImportOutcome, days: number) => {
    const time = new Date(Date.now() - days * 24 * 3_600_000);
    await utimes(join(stateDir, "imported", outcome.image.record.name, "record.json"), time, time);
  };
  await age(one, 8);
  await age(two, 8);
  await age(three, 6);
  const released: string[] = [];
  const held = { release: async (image: { readonly path: string }) => void released.push(image.path) };
  await importer.prune(new Set([one.image.record.digest]), held);
  expect(importer.list()).toEqual([one.image, three.image].sort((a, b) => (a.record.name < b.record.name ? -1 : 1)));
  expect(released).toEqual([two.image.path]);
  await importer.close();
  importer = await openImporter(stateDir, { importedMib: 0 });
  expect(importer.get(one.image.record.name)).toEqual(one.image);
  await importer.prune(new Set([one.image.record.digest]), held);
  expect(importer.list()).toEqual([one.image]);
});

test("Debian packages, from this machine's own sources", { timeout: 600_000 }, async () => {
  const suite = must(/^VERSION_CODENAME=(.+)$/m.exec(await readFile("/etc/os-release", "utf8"))?.[1], "Debian has a codename");
  const outcome = await bring({ kind: "debian", suite, packages: ["hello", "bsdutils"] });
  expect(outcome.isNew).toBe(true);
  await mounted(outcome, async (root) => {
    expect(await run(["chroot", root, "hello"])).toBe("Hello, world!\n");
    expect(await run(["chroot", root, "id", "user"])).toContain("uid=1000(user) gid=1000(user)");
    expect((await lstat(join(root, "usr/bin/sudo"))).mode & 0o7777).toBe(0o4755);
    expect((await lstat(join(root, "home/user"))).uid).toBe(1_000);
    expect(await run(["grep", "-rh", "^deb ", join(root, "etc/apt")]), "a guest can install more").toContain(` ${suite} main`);
  });
  const said: ImportProgress[] = [];
  expect(await bring({ kind: "debian", suite, packages: ["bsdutils", "hello", "hello"] }, { said })).toEqual({
    image: outcome.image,
    isNew: false,
  });
  expect(said, "nothing was done").toEqual([]);
  const unknown = await refused(bring({ kind: "debian", suite, packages: ["no-such-package-at-all"] }));
  expect(unknown).toMatchObject({ code: "image_unusable", message: expect.stringContaining("no-such-package-at-all") as string });
  expect((await refused(bring({ kind: "debian", suite, packages: ["--help"] }))).code).toBe("request_invalid");
});
