import { EventEmitter } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

import { buildStates } from "@roost/contract";
import { FakeError } from "@roost/sdk/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { buildStateNames } from "../../program/template-commands.ts";
import { TestCli, type CliCall, type CliResult } from "../../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const run = async (line: string, call?: CliCall) => cli.run(line.split(" "), call);
const json = async (line: string) => JSON.parse(out(await run(`${line} --json`))) as unknown;
const builds = () => cli.api.sandboxes.builds;
const recipe = () => builds().requests.at(-1)?.recipe;

async function write(files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(cli.folder, path, ".."), { recursive: true });
    await writeFile(join(cli.folder, path), content);
  }
}

test("builds the folder's Dockerfile, shows each step, and prints the name", async () => {
  await write({
    "app/Dockerfile": "ARG V\nFROM debian:$V\nLABEL a=b\nEXPOSE 80\nCOPY . /app/\nRUN make \\\n  all\nCMD serve\n",
    "app/main.c": "int main;",
  });
  const result = await run("template build app -t web:v1 --tag stable --build-arg V --vcpus 2 -m 1g", { environment: { V: "12" } });
  expect(result).toMatchObject({ exitCode: 0 });
  expect(out(result)).toBe("web:v1\n");
  expect(result.stderr.split("\n").slice(0, -2)).toEqual([
    "warning: app/Dockerfile:3: LABEL: it is left out: templates have no labels",
    "note: app/Dockerfile:4: EXPOSE: nothing to do: every port of a sandbox can be reached, as its network policy allows",
    "[base] the base is there",
    "[1/2] copy",
    "[2/2] RUN make all",
  ]);
  expect(result.stderr).toMatch(/\n2 steps, 0 cached, 12(?:\.0)? MiB, in \d+ s\n$/);
  expect(builds().requests).toMatchObject([{ name: "web:v1", tags: ["stable"], vcpus: 2, memory_mb: 1024 }]);
  expect(recipe()).toMatchObject({
    from: { image: "debian:12" },
    start_command: "/bin/sh -c serve",
    ready_command: "sleep 20",
    force: false,
  });
  const [archive] = builds().archives.values();
  expect(gunzipSync(archive ?? Buffer.alloc(0)).toString("latin1")).toContain("int main;");
});

test("what steps say is shown below them, made safe; cached ones say so", async () => {
  await write({ Dockerfile: "FROM a\nRUN b\nRUN c" });
  builds().isHeld = true;
  const building = run("template build -t web");
  await expect.poll(() => builds().list()[0]?.steps_done).toBe(2);
  const id = builds().list()[0]?.id ?? "";
  builds().say(id, "1", "out\u001b[2Jput");
  builds().say(id, "1", "only for experts", "debug");
  builds().say(id, "finalize", "saving");
  builds().release();
  const { stderr, exitCode } = await building;
  expect(exitCode).toBe(0);
  expect(stderr).toContain("[2/2] RUN c\n  out\\x1b[2Jput\n[finalize] saving\n");
  expect(stderr).not.toContain("experts");
  cli.api.handlers.socket.followBuild = ({ socket }) => {
    const line = { number: 0, time: new Date().toISOString(), level: "info", step: "0", message: "CACHED RUN /bin/sh -c b" };
    socket.send(JSON.stringify({ type: "line", line }));
    socket.send(JSON.stringify({ type: "end", build: { ...builds().get(id), state: "ready" } }));
  };
  expect((await run("template build -t web")).stderr).toContain("[1/2] RUN b (cached)\n");
});

test.each([
  ["--from-image debian:12", { from: { image: "debian:12" }, steps: [] }],
  ["--from-archive recipes/file", { from: { archive: expect.stringMatching(/^e3b0c442/) as string } }],
  ["--from-template base:v2", { from: { template: "base:v2" } }],
  [
    "--from-debian bookworm --packages curl,git --packages=jq",
    { from: { debian: { suite: "bookworm", packages: ["curl", "git", "jq"] } } },
  ],
  [
    "--from-image a --start serve --ready true --no-cache",
    { from: { image: "a" }, start_command: "serve", ready_command: "true", force: true },
  ],
  [". --no-start", { from: { image: "of-dockerfile" }, stages: [], steps: [], force: false }],
  ["--target one", { from: { image: "first" } }],
  [
    "-f recipes/more.json recipes",
    { from: { template: "base" }, steps: [{ kind: "copy", source: "file", destination: "/x" }], ready_command: "sleep 1" },
  ],
  ["recipes --ready true --start x", { from: { template: "of-recipe" }, start_command: "x", ready_command: "true" }],
  ["-f sub/Dockerfile.dev", { from: { image: "dev" }, steps: [{ kind: "copy", source: "Dockerfile" }] }],
])("template build %s", async (args, expected) => {
  await write({
    Dockerfile: 'FROM first AS one\nFROM of-dockerfile\nCMD ["x"]',
    "sub/Dockerfile.dev": "FROM dev\nCOPY Dockerfile /x/",
    "recipes/recipe.json": '{"from":{"template":"of-recipe"}}',
    "recipes/more.json":
      '{"from":{"template":"base"},"steps":[{"kind":"copy","source":"file","destination":"/x"}],"ready_command":"sleep 1"}',
    "recipes/file": "",
  });
  const result = await run(`template build ${args} -t web`);
  expect(result, result.stderr).toMatchObject({ exitCode: 0 });
  expect(recipe()).toMatchObject(expected);
});

test.each([
  ["", 2, "required option '-t, --name <name>' not specified"],
  ["-t web", 2, "there is neither a Dockerfile nor a recipe.json in .\nhint:  name the file with -f"],
  ["-t web nothing", 2, "in nothing"],
  ["-t web -f nothing", 1, "no such file"],
  ["-t web --from-image a --from-template b", 2, "exclude each other"],
  ["-t web --from-image a folder", 2, "without a folder or file"],
  ["-t web --from-image a --build-arg B=1", 2, "--build-arg and --target are for Dockerfiles"],
  ["-t web --packages a", 2, "--packages goes with --from-debian"],
  ["-t web --from-image ://", 1, "error: recipe: must be an image reference"],
  ["-t web --from-image a --registry-user me", 2, "go together"],
  ["-t web --from-image a --registry-user me --registry-password-stdin", 2, "there is no password on standard input"],
  ["-t web --from-image a --registry-credentials-stdin", 2, "standard input is no JSON"],
  ["-t web --from-image a --registry-user me --registry-credentials-stdin", 2, "leave out the other"],
  ["-t web --memory lots", 2, "Write MiB"],
  ["-t web bad", 1, 'error: bad/Dockerfile:2: COPY: there is no "missing" in the context folder'],
  ["-t web --from-image a -t Web!", 1, "a template's name has at most"],
])("template build %s is refused", async (args, exitCode, message) => {
  await write({ "bad/Dockerfile": "FROM a\nCOPY missing /x" });
  const result = await run(`template build ${args}`.trim());
  expect(result.stderr).toContain(message);
  expect(result.exitCode).toBe(exitCode);
  expect(builds().requests).toEqual([]);
});

test("the registry's password comes from standard input and is nowhere else", async () => {
  const call = { input: "se cret\n" };
  const result = await run("template build --from-image a -t web --registry-user me --registry-password-stdin", call);
  expect(result.exitCode).toBe(0);
  expect(builds().requests[0]?.credentials).toEqual({ type: "basic", username: "me", password: "se cret" });
  expect(out(result) + result.stderr + cli.api.seen.join()).not.toContain("se cret");
});

test.each([
  { type: "token", token: "very secret" },
  { type: "aws", access_key_id: "AKIA", secret_access_key: "very secret", region: "eu-central-1" },
  { type: "gcp", service_account_json: '{"private_key":"very secret"}' },
])("all of a registry's credentials come from standard input: $type", async (credentials) => {
  const args = "template build --from-image a -t web --registry-credentials-stdin";
  const result = await run(args, { input: JSON.stringify(credentials) });
  expect(result.exitCode).toBe(0);
  expect(builds().requests[0]?.credentials).toEqual(credentials);
  const wrong = await run(args, { input: JSON.stringify({ ...credentials, region: 7, more: "very secret" }) });
  expect(wrong).toMatchObject({ exitCode: 2 });
  for (const { stdout, stderr } of [result, wrong]) expect(String(stdout) + stderr + cli.api.seen.join()).not.toContain("very secret");
});

test("a build that fails says where, and what can be done", async () => {
  await write({ Dockerfile: "FROM a\n\nRUN false" });
  builds().failure = { message: "RUN false ended with exit code 1\n\u001b[2Jlast words", step: "0" };
  const result = await run("template build -t web");
  expect(result).toMatchObject({ exitCode: 1 });
  expect(out(result)).toBe("");
  expect(result.stderr).toContain(
    "error: Dockerfile:3: RUN: RUN false ended with exit code 1\n\\x1b[2Jlast words\nhint:  `roost template logs NAME`",
  );
  expect(out(await run("template builds"))).toMatch(/failed +1 of 1 +0 .*RUN false ended with exit code 1\n$/);
  expect((await run("template build -t web --json")).stderr).toContain(
    '{"error":{"code":"build_failed","message":"Dockerfile:3: RUN: RUN false',
  );
});

test("an interrupt cancels the build", async () => {
  builds().isHeld = true;
  const signals = new EventEmitter();
  const building = run("template build --from-image a -t web", { signals });
  await expect.poll(() => builds().list()[0]?.state).toBe("building");
  signals.emit("SIGINT");
  expect(await building).toMatchObject({ exitCode: 130 });
  expect(builds().list()).toMatchObject([{ state: "cancelled" }]);
});

test("detached it goes on by itself, and can be followed, listed and cancelled", async () => {
  builds().isHeld = true;
  const id = out(await run("template build --from-image a -t web -d")).trim();
  await expect.poll(() => builds().get(id).state).toBe("building");
  expect(out(await run("template builds"))).toMatch(new RegExp(`${id} +web +default +building +0 of 0`));
  const following = run(`template logs -f ${id.slice(0, 8)}`);
  expect(out(await run("template cancel web"))).toBe(`${id}\n`);
  const followed = await following;
  expect(followed).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("was cancelled") as string });
  expect(out(followed)).toMatch(/^\d\d:\d\d:\d\d \[base\] the base is there\n$/);
  const again = await run(`template cancel ${id}`);
  expect(again).toMatchObject({ exitCode: 0 });
});

test("--json is a line for each thing that happens", async () => {
  await write({ Dockerfile: "FROM a\nVOLUME /x\nRUN b" });
  const result = await run("template build -t web --json");
  const lines = out(result)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string });
  expect(lines[0]).toMatchObject({ type: "prepared", notes: [{ keyword: "VOLUME", line: 2, level: "warning" }], skipped: [] });
  expect(lines.filter(({ type }) => type === "line")).toMatchObject([{ line: { step: "base" } }, { line: { step: "0" } }]);
  expect(lines.at(-1)).toMatchObject({ type: "build", build: { state: "ready", template: "web" } });
  expect(result.stderr).toBe("");
});

test("builds are listed by template and state, at most so many", async () => {
  expect((await run("template builds")).stderr).toContain("no builds");
  for (const name of ["one", "two", "one"]) await run(`template build --from-image a -t ${name}`);
  expect(await json("template builds one")).toMatchObject([{ template: "one" }, { template: "one" }]);
  expect(await json("template builds --limit 1")).toMatchObject([{ template: "one" }]);
  expect(await json("template builds --limit 0")).toEqual([]);
  expect(await json("template builds --state failed")).toEqual([]);
  expect((await run("template builds --state odd")).exitCode).toBe(2);
  expect(
    out(await run("template builds -q"))
      .trim()
      .split("\n"),
  ).toEqual(
    builds()
      .list()
      .map(({ id }) => id),
  );
  expect([...buildStates]).toEqual(buildStateNames);
});

test("logs of a build: by id, its beginning, or its template; with and without what helps experts", async () => {
  await run("template build --from-image a -t web");
  const id = builds().list()[0]?.id ?? "";
  builds().say(id, null, "fine\u0007", "debug");
  for (const reference of [id, id.slice(0, 6), "web"])
    expect(out(await run(`template logs ${reference}`))).toMatch(/^.* \[base\] the base is there\n$/);
  expect(out(await run("template logs web -v"))).toMatch(/\[build\] fine\\x07\n$/);
  expect(await run("template logs -f web")).toMatchObject({ exitCode: 0 });
  const missing = await run("template logs nothing");
  expect(missing).toMatchObject({ exitCode: 1 });
  expect(missing.stderr).toContain("there is no build nothing, nor a template with builds of that name\nhint:  `roost template builds`");
  await run("template build --from-image a -t web");
  const ambiguous = await run("template logs -"); // ids hold a '-', but begin with none
  expect(ambiguous.exitCode).toBe(1);
});

test("templates are listed, shown, tagged, untagged and deleted", async () => {
  await run("template build --from-image a -t web:v1");
  expect(out(await run("template ls"))).toMatch(/\nweb +built +v1\n/); // `web` itself would be `web:default`
  expect(out(await run("template ls -q"))).toBe("base\nweb\n");
  expect(out(await run("template tag web:v1 stable default"))).toBe("web:stable\nweb:default\n");
  expect(out(await run("template ls"))).toMatch(/web +built +default stable v1 +memory, disk +1 +512 MiB +10(?:\.0)? GiB/);
  const id = builds().list()[0]?.id ?? "";
  expect(await json(`template tag web more --build ${id.slice(0, 8)}`)).toMatchObject({ tags: ["default", "more", "stable", "v1"] });
  expect(out(await run("template untag web v1 more"))).toBe("web:v1\nweb:more\n");
  expect(out(await run("template get web"))).toMatch(new RegExp(`tags +stable ${id}\n +default ${id}`));
  expect(await json("template get web:stable")).toMatchObject({ name: "web", build_id: id });
  expect(out(await run("template publish web"))).toBe("web\n");
  expect(out(await run("template get web"))).toMatch(/public +yes/);
  expect(await json("template unpublish web")).toMatchObject([{ name: "web", is_public: false }]);
  expect(out(await run("template get web"))).not.toMatch(/public/);
  expect((await run("template publish nothing")).exitCode).toBe(1);
  const removed = await run("template rm web nothing");
  expect(removed).toMatchObject({ exitCode: 1 });
  expect(out(removed)).toBe("web\n");
  expect(removed.stderr).toContain("there is no template nothing\nhint:  `roost template ls`");
  cli.api.handlers.http.deleteTemplate = () => {
    throw new FakeError("template_in_use", "used");
  };
  expect((await run("template rm web")).stderr).toContain("`roost ls --template NAME`");
  expect((await run("template")).exitCode).toBe(2);
});
