import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { Build, BuildLogLine } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "../client.ts";
import { FakeApi } from "../testing/fake-api.ts";
import { BuildFailedError } from "./build-failed-error.ts";
import type { BuildSource } from "./prepare.ts";
import type { FileProgress } from "./file-progress.ts";

/** Templates and builds as a program uses them. */

let api: FakeApi;
let roost: RoostClient;
let folder: string;
beforeEach(async () => {
  api = await FakeApi.start();
  roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
  folder = await mkdtemp(join(tmpdir(), "roost-templates-"));
  await mkdir(join(folder, "src"));
  await writeFile(join(folder, "src/app.py"), "print('hello')\n");
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** A build as it was asked for. */
const requested = () => {
  const [request, ...more] = api.sandboxes.builds.requests;
  if (request === undefined || more.length > 0) throw new Error(`${more.length + (request === undefined ? 0 : 1)} builds were asked for`);
  return request;
};

test("a Dockerfile becomes a recipe, its files are sent, and the build is followed to its end", async () => {
  const dockerfile = 'FROM debian:12\nARG V=1\nENV A=$V\nCOPY src /app/\nRUN make\nCMD ["python3", "/app/app.py"]\n';
  const lines: BuildLogLine[] = [];
  const files: FileProgress[] = [];
  const states: string[] = [];
  const notes: unknown[] = [];
  const build = await roost.templates.build(
    { dockerfile, context: folder, buildArgs: { V: "2" } },
    {
      name: "app:v1",
      tags: ["latest"],
      vcpus: 2,
      memoryMb: 1024,
      credentials: { type: "token", token: "t" },
      onLog: (line) => void lines.push(line),
      onFiles: (progress) => void files.push(progress),
      onPrepared: (prepared) => void notes.push(...prepared.notes),
      onBuild: ({ state }) => void states.push(state),
    },
  );
  expect(build).toMatchObject({ state: "ready", template: "app", tags: ["v1", "latest"], vcpus: 2, memory_mb: 1024 });
  const [hash = ""] = api.sandboxes.builds.archives.keys();
  expect(requested()).toMatchObject({
    name: "app:v1",
    credentials: { type: "token", token: "t" },
    recipe: {
      from: { image: "debian:12" },
      steps: [
        { kind: "env", envs: { A: "2" } },
        { kind: "copy", files: hash, source: "src", destination: "/app/", user: "root" },
        { kind: "run", command: "export V=2; /bin/sh -c make" },
      ],
      start_command: "python3 /app/app.py",
      ready_command: "sleep 20",
      force: false,
    },
  });
  expect(lines.map(({ number, step }) => [number, step])).toEqual(
    [0, 1, 2, 3].map((number) => [number, number === 0 ? "base" : String(number - 1)]),
  );
  expect(files.map(({ stage }) => stage).filter((stage, index, all) => stage !== all[index - 1])).toEqual([
    "reading",
    "packing",
    "sending",
  ]);
  const length = api.sandboxes.builds.archives.get(hash)?.length;
  expect(files.at(-1)).toEqual({ stage: "sending", bytes: length, total: length });
  expect(states[0]).toBe("waiting");
  expect(states.at(-1)).toBe("ready");
  expect(notes).toEqual([]);
  expect((await readdir(tmpdir())).filter((name) => name.startsWith("roost-files-"))).toEqual([]);
});

test("files that the platform has are not sent again", async () => {
  const source = { dockerfile: "FROM a\nCOPY . /x\nCOPY src src/\nCOPY src/app.py src/", context: folder };
  await roost.templates.build(source, { name: "app" });
  await roost.templates.build(source, { name: "app" });
  expect(api.seen.filter((line) => line.startsWith("PUT"))).toHaveLength(2);
  expect(api.seen.filter((line) => line.startsWith("GET /v1/templates/files"))).toHaveLength(4);
  expect(api.seen.every((line) => !line.includes("files") || line.endsWith("?name=app"))).toBe(true);
});

test("a recipe may name files of a folder, or archives that were sent before", async () => {
  const known = "a".repeat(64);
  api.sandboxes.builds.archives.set(known, Buffer.from("x"));
  await roost.templates.build(
    {
      recipe: {
        from: { debian: { suite: "bookworm", packages: ["python3"] } },
        stages: [
          { name: "one", from: { template: "base" }, steps: [{ kind: "copy", source: "src/*.py", destination: "/one", force: true }] },
        ],
        steps: [
          { kind: "copy", source: "src", destination: "/app", user: "me:us", mode: "0700" },
          { kind: "copy", files: known, source: ".", destination: "/known" },
          { kind: "copy-from-stage", stage: "one", source: "/one", destination: "/two" },
        ],
        ready_command: "true",
      },
      context: folder,
    },
    { name: "app" },
  );
  const { recipe } = requested();
  expect(recipe.stages[0]?.steps).toEqual([
    { kind: "copy", files: expect.stringMatching(/^[0-9a-f]{64}$/) as string, source: "src/app.py", destination: "/one", force: true },
  ]);
  expect(recipe.steps).toMatchObject([{ source: "src", user: "me:us", mode: "0700" }, { files: known }, { stage: "one" }]);
  expect(api.sandboxes.builds.archives.size).toBe(3);
});

test.each<[BuildSource, string]>([
  [{ dockerfile: "FROM a\nBOGUS", file: "some/Dockerfile" }, "some/Dockerfile:2: BOGUS: there is no such instruction"],
  [{ dockerfile: "FROM a\nCOPY nothing /x" }, "Dockerfile:2: COPY: there is no context folder to copy from"],
  [{ dockerfile: "FROM a\n\nCOPY nothing /x", context: tmpdir() }, 'Dockerfile:3: COPY: there is no "nothing" in the context folder'],
  [{ dockerfile: "FROM a b://c" }, 'Dockerfile:1: FROM: "a b://c" is not understood'],
  [{ dockerfile: "FROM http://a/b" }, "Dockerfile:1: FROM: must be an image reference"],
  [{ dockerfile: "FROM a AS x\nFROM template://a/b/c" }, "Dockerfile:2: FROM: a template name starts with"],
  [{ dockerfile: `FROM a\nRUN ${"x".repeat(70_000)}` }, "Dockerfile:2: RUN: Too big"],
  [{ dockerfile: `FROM a AS b\nUSER ${"u".repeat(40)}\nFROM b` }, "Dockerfile:2: USER: Too big"],
  [{ recipe: "{", file: "recipe.json" }, "recipe.json: it is not JSON"],
  [{ recipe: "[]", file: "recipe.json" }, "recipe.json: it: "],
  [{ recipe: '{"from":{"image":"a"},"steps":[{"kind":"copy","source":"a"}]}' }, "recipe: steps.0.destination: "],
  [{ recipe: '{"from":{"image":"a"},"steps":[{"kind":"brew"}]}', file: "r.json" }, "r.json: steps.0.kind: "],
  [{ recipe: '{"from":{"image":"a"},"more":1}' }, 'Unrecognized key: "more"'],
  [
    { recipe: { from: { image: "a" }, steps: [{ kind: "copy-from-stage", stage: "x", source: "/", destination: "/" }] } },
    "recipe: steps[0]: must be the name of an earlier stage",
  ],
])("what cannot be built is said before anything is sent: %#", async (source, message) => {
  await expect(roost.templates.build(source, { name: "app" })).rejects.toThrow(message);
  expect(api.seen).toEqual([]);
});

test("an image that is here is sent as it is, a folder with an OCI layout as an archive", async () => {
  const archive = join(folder, "image.tar");
  await writeFile(archive, "x".repeat(1_000_000));
  const layout = join(folder, "layout");
  await mkdir(join(layout, "blobs"), { recursive: true });
  await writeFile(join(layout, "oci-layout"), "{}");
  await writeFile(join(layout, ".dockerignore"), "*");
  await roost.templates.build({ imageArchive: archive, startCommand: "serve", readyCommand: "true" }, { name: "app" });
  const hash = createHash("sha256").update("x".repeat(1_000_000)).digest("hex");
  expect(requested().recipe).toEqual({
    from: { archive: hash },
    stages: [],
    steps: [],
    start_command: "serve",
    ready_command: "true",
    force: false,
  });
  expect(api.sandboxes.builds.archives.get(hash)?.length).toBe(1_000_000);
  await roost.templates.build({ imageArchive: layout }, { name: "app" });
  const plain = [...api.sandboxes.builds.archives.values()].at(-1)?.toString("latin1") ?? "";
  for (const name of ["oci-layout", "blobs/", ".dockerignore"]) expect(plain).toContain(`${name}\0`);
  for (const [path, problem] of [
    ["nothing", "there is no image archive"],
    ["src", "is no image"],
  ]) {
    await expect(roost.templates.build({ imageArchive: join(folder, path ?? "") }, { name: "app" })).rejects.toThrow(problem);
  }
});

test("an archive that changes while it is sent is not taken", async () => {
  const archive = join(folder, "image.tar");
  await writeFile(archive, "before");
  const onPrepared = async () => writeFile(archive, "after!");
  await expect(roost.templates.build({ imageArchive: archive }, { name: "app", onPrepared })).rejects.toThrow("changed while being read");
  expect(api.sandboxes.builds.archives.size).toBe(0);
});

test("more than any platform takes is refused before it is read", async () => {
  await writeFile(join(folder, "src/huge"), "");
  await truncate(join(folder, "src/huge"), 70 * 1024 ** 3);
  await expect(roost.templates.prepare({ dockerfile: "FROM a\nCOPY src /x", context: folder })).rejects.toThrow("can be sent; name less");
});

test("a start command in place of the Dockerfile's, or none at all", async () => {
  const prepared = async (more: object) => (await roost.templates.prepare({ dockerfile: "FROM a\nCMD x", ...more })).recipe;
  expect(await prepared({})).toMatchObject({ start_command: "/bin/sh -c x", ready_command: "sleep 20" });
  expect(await prepared({ startCommand: "serve", readyCommand: "curl -f localhost" })).toMatchObject({
    start_command: "serve",
    ready_command: "curl -f localhost",
  });
  const none = await prepared({ startCommand: "", force: true });
  expect(none).toEqual({ from: { image: "a" }, stages: [], steps: [], force: true });
});

test("a build that fails says where in the Dockerfile, and keeps what it said", async () => {
  api.sandboxes.builds.failure = { message: "exit code 2", step: "1" };
  const failure: unknown = await roost.templates
    .build({ dockerfile: "FROM a\nENV A=1\nRUN false\n" }, { name: "app" })
    .catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(BuildFailedError);
  expect(failure).toMatchObject({
    code: "build_failed",
    message: "Dockerfile:3: RUN: exit code 2",
    step: "1",
    build: { state: "failed" },
    origin: { text: "RUN false" },
  });
  api.sandboxes.builds.failure = { message: "no such image", step: "base" };
  await expect(roost.templates.build({ dockerfile: "FROM a" }, { name: "app" })).rejects.toThrow(
    /^build [0-9a-f-]{36} of app failed: no such image$/,
  );
});

test("aborting cancels the build", async () => {
  api.sandboxes.builds.isHeld = true;
  const abort = new AbortController();
  const onBuild = ({ state }: Build) => {
    if (state === "building") abort.abort(new Error("enough"));
  };
  await expect(roost.templates.build({ dockerfile: "FROM a" }, { name: "app", signal: abort.signal, onBuild })).rejects.toThrow("enough");
  const [build] = api.sandboxes.builds.list();
  expect(build?.state).toBe("cancelled");
  await expect(roost.templates.build({ dockerfile: "FROM a" }, { name: "app", signal: abort.signal })).rejects.toThrow("enough");
  expect(api.sandboxes.builds.list()).toHaveLength(1);
});

test("a build that somebody else cancels is no success", async () => {
  api.sandboxes.builds.isHeld = true;
  const onLog = async () => {
    const [build] = api.sandboxes.builds.list();
    if (build !== undefined) await roost.builds.cancel(build.id);
  };
  await expect(roost.templates.build({ dockerfile: "FROM a" }, { name: "app", onLog })).rejects.toMatchObject({ code: "build_cancelled" });
});

test("following goes on behind the last line when connections break", async () => {
  api.sandboxes.builds.isHeld = true;
  const { build } = await roost.templates.start({ dockerfile: "FROM a\nRUN one" }, { name: "app" });
  const lines: string[] = [];
  for await (const event of roost.builds.follow(build.id)) {
    if (event.type === "end") expect(event.build.state).toBe("ready");
    if (event.type !== "line") continue;
    lines.push(event.line.message);
    if (event.line.message.endsWith("one")) {
      api.dropConnections();
      api.sandboxes.builds.say(build.id, null, "said while nobody listened");
    } else if (event.line.message.startsWith("said")) api.sandboxes.builds.release();
  }
  expect(lines).toEqual(["the base is there", "RUN /bin/sh -c one", "said while nobody listened"]);
  expect(api.seen.filter((line) => line.includes("/logs/stream"))).toEqual([
    `GET /v1/builds/${build.id}/logs/stream?offset=0`,
    `GET /v1/builds/${build.id}/logs/stream?offset=2`,
  ]);
});

test("following a build that is not there, or that the server cannot tell of, ends at once", async () => {
  const missing = "00000000-0000-4000-8000-000000000000";
  const follow = async () => {
    for await (const _ of roost.builds.follow(missing));
  };
  await expect(follow()).rejects.toMatchObject({ code: "build_not_found" });
  api.handlers.socket.followBuild = ({ socket }) => socket.send(JSON.stringify({ type: "error", code: "internal", data: "a bug" }));
  await expect(follow()).rejects.toMatchObject({ code: "internal", message: "a bug" });
  await expect(roost.builds.get(missing)).rejects.toMatchObject({ code: "build_not_found" });
});

test("builds are listed page after page, and their logs", async () => {
  for (const name of ["one", "two", "one"]) await roost.templates.build({ dockerfile: "FROM a\nRUN b" }, { name });
  const names = async (options: object) => {
    const found: string[] = [];
    for await (const build of roost.builds.list(options)) found.push(build.template);
    return found;
  };
  expect(await names({ limit: 1 })).toEqual(["one", "two", "one"]);
  expect(await names({ template: "two" })).toEqual(["two"]);
  expect(await names({ state: "failed" })).toEqual([]);
  const [build] = api.sandboxes.builds.list();
  for (let index = 0; index < 1200; index += 1) api.sandboxes.builds.say(build?.id ?? "", null, `line ${index}`);
  const lines: number[] = [];
  for await (const { number } of roost.builds.logs(build?.id ?? "")) lines.push(number);
  expect(lines).toEqual(Array.from({ length: 1202 }, (_, index) => index));
});

test("templates are listed, tagged, untagged and deleted", async () => {
  const build = await roost.templates.build({ dockerfile: "FROM a" }, { name: "app:v1" });
  expect((await roost.templates.list()).map(({ name, kind, tags }) => [name, kind, tags])).toEqual([
    ["base", "base", []],
    ["app", "built", ["v1"]],
  ]);
  expect(await roost.templates.tag("app:v1", "stable")).toMatchObject({ tags: ["stable", "v1"] });
  expect(await roost.templates.tag("app", "default", { buildId: build.id })).toMatchObject({ tags: ["default", "stable", "v1"] });
  await roost.templates.untag("app", "v1");
  expect(await roost.templates.get("app")).toMatchObject({ tags: ["default", "stable"], build_id: build.id });
  await roost.templates.delete("app");
  await expect(roost.templates.get("app")).rejects.toMatchObject({ code: "template_not_found" });
});
