import { poll } from "@roost/kit";
import {
  AuthenticationError,
  BuildError,
  E2B,
  LogEntry,
  LogEntryEnd,
  LogEntryStart,
  Sandbox,
  Template,
  TemplateError,
  waitForFile,
  waitForPort,
  type BuildInfo,
  type BuildOptions,
  type TemplateClass,
} from "e2b";
import { Sandbox as OldSandbox, Template as OldTemplate } from "e2b-old";
import { beforeAll, describe, expect, test } from "vitest";

import { buildTimeoutMs } from "../../support/builds.ts";
import { api, failureOf, killedAtEnd, output, ownSandbox, sandboxTimeoutMs, toPort, useE2b } from "../../support/e2b.ts";
import { collectLogs, kitchenSink, kitchenSinkLayers, placeHere, serverPort, useContext } from "./template-helpers.ts";

useE2b();
const context = useContext();

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** Small, so that saving memory takes little */
const sizes = { cpuCount: 1, memoryMB: 512 };

const first = collectLogs();
const second = collectLogs();
let v1: BuildInfo;
let v2: BuildInfo;
let sandbox: Sandbox;
beforeAll(async () => {
  v1 = await Template.build(kitchenSink(context(), "1"), "Kitchen:v1", { ...sizes, tags: ["stable"], onBuildLogs: first.onBuildLogs });
  v2 = await Template.build(kitchenSink(context(), "2"), "kitchen", { ...sizes, onBuildLogs: second.onBuildLogs });
  sandbox = await Sandbox.create("kitchen:v1", { timeoutMs: sandboxTimeoutMs });
});

const started = async (id: string) => (await toPort(id, serverPort, "/started")).text();

describe("a build", () => {
  test("says what it made", () => {
    expect(v1).toEqual({
      name: "Kitchen:v1",
      alias: "Kitchen:v1",
      tags: ["v1", "stable"],
      templateId: expect.stringMatching(/^[a-z0-9]+$/),
      buildId: expect.stringMatching(uuid),
    });
    expect(v2).toMatchObject({ name: "kitchen", tags: ["default"], templateId: v1.templateId });
    expect(v2.buildId).not.toBe(v1.buildId);
  });

  test("tells its log while it goes on: its steps, what they print, what is started", () => {
    expect(first.entries[0]).toBeInstanceOf(LogEntryStart);
    expect(first.entries.at(-1)).toBeInstanceOf(LogEntryEnd);
    for (const entry of first.entries) {
      expect(entry).toBeInstanceOf(LogEntry);
      expect(entry.timestamp.getTime()).toBeGreaterThan(0);
    }
    for (const beginning of [
      "COPY site kept",
      "RUN id -un > ran-as",
      "printed-by-a-step",
      "ENV FIXED GREETING",
      "USER builder",
      "START ",
    ]) {
      expect(first.lines(beginning), beginning).toHaveLength(1);
    }
    expect(first.lines("CACHED")).toEqual([]);
    expect(first.lines("Uploaded").length).toBeGreaterThan(0);
    const place = (beginning: string) => first.entries.findIndex(({ message }) => message.startsWith(beginning));
    expect(place("COPY site kept")).toBeLessThan(place("printed-by-a-step"));
    expect(place("printed-by-a-step")).toBeLessThan(place("START "));
  });

  test("done again it takes every step from the cache, and no file is uploaded again", () => {
    expect([...second.lines("CACHED RUN"), ...second.lines("CACHED COPY")]).toHaveLength(kitchenSinkLayers);
    expect([...second.lines("RUN"), ...second.lines("COPY"), ...second.lines("printed-by-a-step")]).toEqual([]);
    expect(second.lines("Uploaded")).toEqual([]);
    expect(second.lines("Skipping upload of").length).toBeGreaterThan(0);
  });

  test("answers for its status afterwards, its log from any line on", async () => {
    const whole = await Template.getBuildStatus(v1);
    expect(whole).toMatchObject({ buildID: v1.buildId, templateID: v1.templateId, status: "ready", logs: [] });
    expect(whole.reason).toBeUndefined();
    expect(whole.logEntries.length).toBeGreaterThan(20);
    const rest = await Template.getBuildStatus(v1, { logsOffset: 5 });
    expect(rest.logEntries[0]).toEqual(whole.logEntries[5]);
    expect((await Template.getBuildStatus(v1, { logsOffset: 100_000 })).logEntries).toEqual([]);
  });

  test("its log by level, direction and page", async () => {
    const path = `/templates/${v1.templateId}/builds/${v1.buildId}`;
    const logs = async (query: string) =>
      ((await (await api("GET", `${path}/logs?${query}`)).json()) as { logs: { message: string; level: string; step?: string }[] }).logs;
    expect((await logs("limit=3")).map(({ level }) => level)).toHaveLength(3);
    expect((await logs("level=error")).filter(({ level }) => level !== "error")).toEqual([]);
    const [newest] = await logs("direction=backward&limit=1");
    const { logEntries } = (await (await api("GET", `${path}/status?logsOffset=0`)).json()) as { logEntries: unknown[] };
    expect(logEntries.at(-1)).toEqual(newest);
    const copied = (await logs("limit=100")).find(({ message }) => message.startsWith("COPY site kept"));
    expect(copied?.step).toBe("1"); // as callers count, whose first call that is after `from…`
  });
});

describe("files", () => {
  test("a folder with its links as links", async () => {
    expect(await output(sandbox, "cd ~user/kept && stat -c '%n %F %a %U' index.html tool link deep deep/up && readlink link deep/up")).toBe(
      [
        "index.html regular file 644 user",
        "tool regular file 750 user",
        "link symbolic link 777 user",
        "deep directory 755 user",
        "deep/up symbolic link 777 user",
        "index.html",
        "../index.html",
      ].join("\n"),
    );
    expect(await output(sandbox, "sudo cat ~user/kept/link ~user/kept/deep/up ~user/kept/.hidden; ~user/kept/tool", { user: "user" })).toBe(
      ["hello from a template", "hello from a template", "hidden", "tool"].join("\n"),
    );
  });

  test("a folder with files in the place of its links", async () => {
    expect(await output(sandbox, "cd ~user/resolved && stat -c '%n %F' link deep/up && cat link deep/up")).toBe(
      ["link regular file", "deep/up regular file", "hello from a template", "hello from a template"].join("\n"),
    );
  });

  test("without what is to be ignored", async () => {
    expect((await output(sandbox, "ls -A ~user/kept")).split("\n").sort()).toEqual([".hidden", "deep", "index.html", "link", "tool"]);
  });

  test("several files, patterns, modes, owners, archives that are not compressed", async () => {
    expect(await output(sandbox, "cd / && sudo stat -c '%n %a %U' /home/user/both/* /srv/pattern/*", { user: "user" })).toBe(
      [
        "/home/user/both/one.txt 640 user",
        "/home/user/both/two.txt 640 user",
        "/srv/pattern/one.txt 604 root",
        "/srv/pattern/two.txt 604 root",
      ].join("\n"),
    );
    expect(await output(sandbox, "cat ~user/plain.txt /srv/pattern/two.txt")).toBe("one\ntwo");
  });

  test("nothing of the copying is left", async () => {
    expect(await output(sandbox, "ls -A / | grep -c roost-copy || true")).toBe("0");
  });
});

describe("steps", () => {
  test("run as the builder's user in its home, or as another one", async () => {
    expect(await output(sandbox, "cat ~user/ran-as ~user/ran-in /srv/ran-as-root")).toBe("user\n/home/user\nroot");
  });

  test("after setUser and setWorkdir as that user in that folder, both made", async () => {
    expect(await output(sandbox, "cat user folder; stat -c '%U' /srv/site; getent passwd builder | cut -d: -f6")).toBe(
      "builder\n/srv/site\nbuilder\n/home/builder",
    );
    expect(await output(sandbox, "cat denied; test -e /srv/forbidden || echo not there")).toMatch(/^yes\nnot there$/m);
  });

  test("folders, links, new names and removals", async () => {
    expect(
      await output(sandbox, "stat -c %a /srv/made; readlink /srv/symlink; cat /srv/symlink; ls -A /srv/old /srv/gone 2>/dev/null || true"),
    ).toBe("711\n/srv/new name\na");
  });
});

describe("a sandbox of a template", () => {
  test("has its user, its folder and its variables", async () => {
    expect(await output(sandbox, 'id -un; pwd; echo "$GREETING, $BOTH, $FIXED, $VERSION"; cat both')).toBe(
      ["builder", "/srv/site", "hello, hello there, it's , 1", "hello there"].join("\n"),
    );
    expect(await output(sandbox, "id -un; pwd", { user: "root", cwd: "/tmp" })).toBe("root\n/tmp");
  });

  test("has the sizes that the build was given", async () => {
    expect(await sandbox.getInfo()).toMatchObject({ cpuCount: 1, memoryMB: 512, templateId: "kitchen:v1" });
    expect(await output(sandbox, "nproc")).toBe("1");
  });

  test("has its server running, from memory: it was started once, while it was built", async () => {
    await using other = await ownSandbox({ template: "kitchen:v1" });
    expect(await started(sandbox.sandboxId)).toMatch(/^[0-9a-f-]{36}\n$/);
    expect(await started(other.sandboxId)).toBe(await started(sandbox.sandboxId));
    expect(await output(other, "cat started-as")).toBe("builder");
  });

  test("takes variables of its own over those of the template", async () => {
    await using other = killedAtEnd(await Sandbox.create("kitchen:v1", { envs: { GREETING: "own", MORE: "more" } }));
    expect(await output(other, "echo $GREETING $MORE $BOTH")).toBe("own more hello there");
  });

  test("by its name, in any case and with any namespace, by id, and by build", async () => {
    for (const [name, version] of [
      ["kitchen", "2"],
      ["somebody/Kitchen:Stable", "1"],
      [v1.templateId, "2"],
      [`kitchen:${v1.buildId}`, "1"],
    ] as const) {
      await using other = killedAtEnd(await Sandbox.create(name));
      expect(await output(other, "echo $VERSION"), name).toBe(version);
    }
  });

  test("of a name or tag that is not there", async () => {
    for (const name of ["no-such-template", "kitchen:no-such-tag", `step-${"0".repeat(40)}`, `build-${v1.buildId.replaceAll("-", "")}`]) {
      const failure = await failureOf(Sandbox.create(name));
      expect(failure, name).toMatchObject({ message: expect.stringMatching(/^404: /) });
    }
  });

  test("lists as one of its template", async () => {
    const items = await Sandbox.list({ query: { state: ["running"] } }).nextItems();
    expect(items.find(({ sandboxId }) => sandboxId === sandbox.sandboxId)).toMatchObject({ templateId: "kitchen:v1", name: "kitchen:v1" });
  });
});

describe("names and tags", () => {
  const tags = async () => Object.fromEntries((await Template.getTags("kitchen")).map(({ tag, buildId }) => [tag, buildId]));

  test("exists and aliasExists", async () => {
    expect(await Template.exists("kitchen")).toBe(true);
    expect(await Template.exists("Kitchen")).toBe(true);
    expect(await Template.exists("base")).toBe(true);
    expect(await Template.aliasExists("kitchen")).toBe(true);
    expect(await OldTemplate.exists("kitchen")).toBe(true);
    expect(await Template.exists("no-such-template")).toBe(false);
    expect(await Template.aliasExists("no-such-template")).toBe(false);
    const { E2B_API_KEY: apiKey = "", E2B_API_URL: apiUrl = "" } = process.env;
    expect(await new E2B({ apiKey, apiUrl }).Template.exists("kitchen")).toBe(true);
  });

  test("tags of builds are listed, with when they were given", async () => {
    expect(await tags()).toEqual({ v1: v1.buildId, stable: v1.buildId, default: v2.buildId });
    for (const { createdAt } of await Template.getTags(v1.templateId)) expect(createdAt.getTime()).toBeGreaterThan(0);
  });

  test("tags are assigned, moved and removed", async () => {
    expect(await Template.assignTags("kitchen:v1", ["Production", "canary"])).toEqual({
      buildId: v1.buildId,
      tags: ["production", "canary"],
    });
    expect(await tags()).toMatchObject({ production: v1.buildId, canary: v1.buildId });
    expect(await Template.assignTags("kitchen", "production")).toEqual({ buildId: v2.buildId, tags: ["production"] });
    expect(await tags()).toMatchObject({ production: v2.buildId, canary: v1.buildId });
    {
      await using moved = killedAtEnd(await Sandbox.create("kitchen:production"));
      expect(await output(moved, "echo $VERSION")).toBe("2");
    }
    await Template.removeTags("kitchen", "production");
    await Template.removeTags("kitchen", ["canary", "never-given"]);
    expect(await tags()).toEqual({ v1: v1.buildId, stable: v1.buildId, default: v2.buildId });
    expect((await failureOf(Sandbox.create("kitchen:production"))).message).toMatch(/^404: /);
  });

  test.each<[string, () => Promise<unknown>, RegExp]>([
    ["assigned to a template that is not there", () => Template.assignTags("no-such-template:v1", "a"), /^404: /],
    ["assigned from a tag that is not there", () => Template.assignTags("kitchen:no-such-tag", "a"), /^404: .*it has: /],
    ["that is a UUID", () => Template.assignTags("kitchen:v1", v1.buildId), /^400: .*UUID/],
    ["with letters that it cannot have", () => Template.assignTags("kitchen:v1", "a b"), /^400: tag/],
    ["of an empty name", () => Template.assignTags(":v1", "a"), /^400: target/],
    ["after an empty tag", () => Template.assignTags("kitchen:", "a"), /^400: target/],
    ["removed though the name means it", () => Template.removeTags("kitchen", "default"), /^400: /],
    ["removed from what is not there", () => Template.removeTags("no-such-template", "a"), /^404: /],
    ["listed of what is not there", () => Template.getTags("no-such-template"), /^404: /],
  ])("a tag %s is a TemplateError", async (_what, call, message) => {
    const failure = await failureOf(call());
    expect(failure).toBeInstanceOf(TemplateError);
    expect(failure.message).toMatch(message);
  });
});

describe("another template as the source, with an older SDK, in the background", () => {
  let info: Awaited<ReturnType<typeof OldTemplate.buildInBackground>>;
  const seen: string[] = [];
  beforeAll(async () => {
    const template = OldTemplate({ fileContextPath: context() })
      .fromTemplate("kitchen:v1")
      .copy("two.txt", "copied")
      .runCmd('echo "$(id -un) $(pwd) $GREETING" > derived');
    info = await OldTemplate.buildInBackground(template, "derived", sizes);
    await poll({ what: "the end of the build", timeoutMs: buildTimeoutMs, intervalMs: 200 }, async () => {
      const { status } = await OldTemplate.getBuildStatus(info);
      seen.push(status);
      return status === "ready" || status === "error" ? true : undefined;
    });
  });

  test("its status goes from building to ready", async () => {
    expect([...new Set(seen)].filter((status) => status !== "waiting" && status !== "building")).toEqual(["ready"]);
    expect(seen[0]).not.toBe("ready");
    const { logEntries } = await OldTemplate.getBuildStatus(info, { logsOffset: 0 });
    expect(logEntries.map(({ message }) => message)).toContainEqual(expect.stringMatching(/^COPY two.txt copied/));
  });

  test("user, folder, variables and what runs are the other one's", async () => {
    const derived = await OldSandbox.create("derived");
    try {
      expect((await derived.commands.run("cat derived copied; id -un; pwd; echo $BOTH; stat -c %U copied")).stdout).toBe(
        ["builder /srv/site hello", "two", "builder", "/srv/site", "hello there", "builder", ""].join("\n"),
      );
      expect(await started(derived.sandboxId)).toMatch(/^[0-9a-f-]{36}\n$/);
      expect(await started(derived.sandboxId)).not.toBe(await started(sandbox.sandboxId));
    } finally {
      await OldSandbox.kill(derived.sandboxId);
    }
  });
});

test("a Dockerfile", async () => {
  const logs = collectLogs();
  const dockerfile = [
    "FROM e2bdev/base",
    "ARG FLAVOUR=plain",
    "ENV NAME=docker OTHER=more",
    "WORKDIR /srv/docker",
    "COPY --chown=user one.txt two.txt ./files/",
    'RUN id -un > who && echo "$NAME $OTHER $FLAVOUR" > envs && \\',
    "    pwd > where",
    "EXPOSE 8000",
  ].join("\n");
  const template = Template({ fileContextPath: context() })
    .fromDockerfile(dockerfile)
    .setStartCmd("touch /tmp/is-ready && python3 -m http.server 8001", waitForPort(8001));
  await Template.build(template, "docker", { ...sizes, onBuildLogs: logs.onBuildLogs });
  await using own = killedAtEnd(await Sandbox.create("docker"));
  expect(await output(own, "cat who envs where; stat -c '%n %U' files/*; id -un; pwd; echo $NAME")).toBe(
    ["root", "docker more plain", "/srv/docker", "files/one.txt user", "files/two.txt user", "user", "/srv/docker", "docker"].join("\n"),
  );
  expect((await toPort(own.sandboxId, 8001, "/who")).status).toBe(200);
  expect(await output(own, waitForFile("/tmp/is-ready").getCmd())).toBe("");
  expect(logs.lines("CACHED")).toEqual([]);
});

describe("builds that fail", () => {
  /** The error's stack, which the SDK makes of the builder's call that the platform says it is about. */
  const attributed = async (template: TemplateClass, options: Partial<BuildOptions> = {}) => {
    const failure = await failureOf(Template.build(template, "failing", { ...sizes, ...options }));
    expect(failure).toBeInstanceOf(BuildError);
    return { message: failure.message, at: failure.stack?.split("\n")[0] };
  };
  const begin = () => Template().fromBaseImage().runCmd("echo first").setEnvs({ A: "b" });

  test("name the call whose step failed, with what it printed; the steps before it are kept", async () => {
    const logs = collectLogs();
    let place = "";
    const template = begin()
      .runCmd("echo second")
      .runCmd(((place = placeHere()), "echo it is broken >&2; exit 7"))
      .runCmd("echo never");
    const { message, at } = await attributed(template, { onBuildLogs: logs.onBuildLogs });
    expect(message).toMatch(/exit status 7[^]*it is broken/);
    expect(at).toContain(place);
    expect(logs.lines("RUN echo first")).toHaveLength(1);
    expect(logs.lines("it is broken")).toHaveLength(1);
    expect(logs.lines("RUN echo never")).toEqual([]);
    expect(logs.entries.filter(({ level }) => level === "error").length).toBeGreaterThan(0);
  });

  test("a user that is not there, word for word; skipCache does anew what comes after it, and nothing before", async () => {
    const logs = collectLogs();
    let place = "";
    const template = begin()
      .skipCache()
      .runCmd("echo second")
      .runCmd(((place = placeHere()), "whoami"), { user: "root123" });
    const { message, at } = await attributed(template, { onBuildLogs: logs.onBuildLogs });
    expect(message).toBe("failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'");
    expect(at).toContain(place);
    expect(logs.lines("CACHED RUN")).toEqual(["CACHED RUN echo first"]);
    expect(logs.lines("RUN echo second")).toHaveLength(1);
  });

  test("a build with skipCache takes nothing from the cache", async () => {
    const logs = collectLogs();
    const { message } = await attributed(begin().runCmd("exit 8"), { skipCache: true, onBuildLogs: logs.onBuildLogs });
    expect(message).toContain("exit status 8");
    expect(logs.lines("CACHED")).toEqual([]);
    expect(logs.lines("RUN echo first")).toHaveLength(1);
  });

  test("a start command that ends: the last call", async () => {
    let place = "";
    const template = Template()
      .fromBaseImage()
      .setEnvs({ A: "b" })
      .setStartCmd(((place = placeHere()), "echo cannot start; exit 3"), waitForFile("/tmp/never"));
    const { message, at } = await attributed(template);
    expect(message).toMatch(/start command[^]*exit status 3[^]*cannot start/);
    expect(at).toContain(place);
  });

  test("a source that is not there: the first call", async () => {
    for (const make of [
      () => [Template().fromTemplate("no-such-template").runCmd("true"), placeHere()] as const,
      () => [Template().fromImage("127.0.0.1:9/nobody/nothing:v1").runCmd("true"), placeHere()] as const,
    ]) {
      const [template, place] = make();
      const { message, at } = await attributed(template);
      expect(message).toMatch(/no-such-template|127\.0\.0\.1:9/);
      expect(at).toContain(place);
    }
  });

  test("their status says why, and which step; the template has no version", async () => {
    const info = await Template.buildInBackground(
      Template().fromBaseImage().setEnvs({ A: "b" }).runCmd("echo why; exit 9"),
      "failing",
      sizes,
    );
    const status = await poll({ what: "the end of the build", timeoutMs: buildTimeoutMs, intervalMs: 200 }, async () => {
      const answer = await Template.getBuildStatus(info);
      return answer.status === "error" ? answer : undefined;
    });
    expect(status.reason).toMatchObject({ message: expect.stringContaining("exit status 9"), step: "2" });
    expect(status.reason?.logEntries.map(({ message }) => message)).toContain("why");
    expect(await Template.exists("failing")).toBe(true);
    expect((await failureOf(Sandbox.create("failing"))).message).toMatch(/^404: .*no build of it is ready/);
    expect((await api("DELETE", "/templates/failing")).status).toBe(204);
    expect(await Template.exists("failing")).toBe(false);
  });
});

describe("requests that are wrong", () => {
  const some = () => Template({ fileContextPath: context() }).fromBaseImage();

  test.each<[string, () => Promise<unknown>, RegExp]>([
    ["a name with other letters", () => Template.build(some(), "not a name"), /^400: name/],
    ["a name without a name", () => Template.build(some(), ":v1"), /^400: name/],
    ["a name of the platform's", () => Template.build(some(), `image-${"0".repeat(24)}`), /^400: name/],
    ["a tag with other letters", () => Template.build(some(), "wrong", { tags: ["a b"] }), /^400: tag/],
    ["a tag that is a UUID", () => Template.build(some(), `wrong:${v1.buildId}`), /^400: .*UUID/],
    ["the name of a base template", () => Template.build(some(), "base"), /^409: .*base template/],
    ["too much memory", () => Template.build(some(), "wrong", { memoryMB: 1 << 30 }), /^400: .*memoryMB/],
    ["no CPUs", () => Template.build(some(), "wrong", { cpuCount: 0 }), /^400: .*cpuCount/],
    ["a variable that no shell has", () => Template.build(some().setEnvs({ "1=2": "x" }), "wrong"), /^400: /],
    ["a status of a build that is not there", () => Template.getBuildStatus({ ...v1, buildId: v1.templateId }), /^404: /],
    ["a status of another template's build", () => Template.getBuildStatus({ ...v1, templateId: "base" }), /^404: /],
  ])("%s is a BuildError", async (_what, call, message) => {
    const failure = await failureOf(call());
    expect(failure).toBeInstanceOf(BuildError);
    expect(failure.message).toMatch(message);
  });

  test("what the SDK itself refuses, it refuses as ever", async () => {
    expect(() => some().copy("/etc/passwd", "x")).toThrow(TemplateError);
    expect(() => some().copy("../x", "x")).toThrow(TemplateError);
    await expect(Template.build(some(), "")).rejects.toBeInstanceOf(TemplateError);
    expect((await failureOf(Template.build(some().copy("not-there", "x"), "wrong"))).message).toMatch(/not-there/);
    expect(() => Template().fromDockerfile("FROM a\nFROM b")).toThrow(/Multi-stage/);
  });

  test("a key that nobody has", async () => {
    const apiKey = `e2b_${"0".repeat(40)}`;
    await expect(Template.build(some(), "wrong", { apiKey })).rejects.toBeInstanceOf(AuthenticationError);
    await expect(Template.exists("kitchen", { apiKey })).rejects.toBeInstanceOf(AuthenticationError);
    await expect(Template.getTags("kitchen", { apiKey })).rejects.toBeInstanceOf(AuthenticationError);
  });

  test("a build is started once, with one source, and with files that are what they are called", async () => {
    const request = await api("POST", "/v3/templates", { name: "wrong" });
    expect(request.status).toBe(202);
    const { templateID, buildID } = (await request.json()) as { templateID: string; buildID: string };
    const again = await api("POST", `/v2/templates/${v1.templateId}/builds/${v1.buildId}`, { fromTemplate: "base" });
    expect([again.status, await again.json()]).toMatchObject([409, { message: expect.stringContaining("started already") }]);
    const start = async (body: unknown) => api("POST", `/v2/templates/${templateID}/builds/${buildID}`, body);
    for (const body of [
      {},
      { fromImage: "a", fromTemplate: "b" },
      { fromTemplate: "base", steps: [{ type: "VOLUME", args: ["/x"] }] },
      { fromTemplate: "base", steps: [{ type: "COPY", args: ["a", "b"] }] },
      { fromTemplate: "base", steps: [{ type: "RUN", args: [] }] },
      { fromTemplate: "base", steps: [{ type: "ENV", args: ["A"] }] },
    ]) {
      expect((await start(body)).status, JSON.stringify(body)).toBe(400);
    }
    expect((await api("GET", `/templates/${templateID}/files/..%2f..%2fx`)).status).toBe(400);
    const link = await api("GET", `/templates/${templateID}/files/${"a".repeat(64)}`);
    expect(link.status).toBe(201);
    const { present, url } = (await link.json()) as { present: boolean; url: string };
    expect(present).toBe(false);
    expect((await fetch(url.replace(/token=.{4}/, "token=0000"), { method: "PUT", body: "x" })).status).toBe(401);
    expect((await api("DELETE", `/templates/${templateID}`)).status).toBe(204);
  });
});

describe("deleting", () => {
  test("what the builder made is listed, and may be made public", async () => {
    const list = (await (await api("GET", "/templates")).json()) as {
      names: string[];
      buildID: string;
      public: boolean;
      buildCount: number;
    }[];
    expect(list.find(({ names }) => names.includes("kitchen"))).toMatchObject({
      templateID: v1.templateId,
      buildID: v2.buildId,
      buildStatus: "ready",
      buildCount: 2,
      public: false,
      ...sizes,
    });
    expect(await (await api("PATCH", "/v2/templates/kitchen", { public: true })).json()).toEqual({ names: ["kitchen"] });
    expect(await (await api("GET", `/templates/aliases/kitchen`)).json()).toEqual({ templateID: v1.templateId, public: true });
    const { builds } = (await (await api("GET", "/templates/kitchen")).json()) as { builds: { buildID: string; status: string }[] };
    expect(builds.map(({ buildID, status }) => [buildID, status])).toEqual([
      [v2.buildId, "ready"],
      [v1.buildId, "ready"],
    ]);
  });

  test("is refused while a sandbox is of the template, and then takes all its tags", async () => {
    const refused = await api("DELETE", "/templates/kitchen");
    expect([refused.status, await refused.json()]).toMatchObject([409, { message: expect.stringContaining(sandbox.sandboxId) }]);
    expect(await output(sandbox, "echo still here")).toBe("still here");
    await sandbox.kill();
    expect((await api("DELETE", "/templates/kitchen:v1")).status).toBe(400);
    expect((await api("DELETE", "/templates/kitchen")).status).toBe(204);
    expect((await api("DELETE", "/templates/kitchen")).status).toBe(404);
    expect(await Template.exists("kitchen")).toBe(false);
    expect((await failureOf(Sandbox.create("kitchen:v1"))).message).toMatch(/^404: /);
    await expect(Template.getBuildStatus(v1)).rejects.toBeInstanceOf(BuildError);
  });

  test("a template that was begun from it stays, and works", async () => {
    await using derived = killedAtEnd(await Sandbox.create("derived"));
    expect(await output(derived, "cat derived; cat ~user/kept/link")).toBe("builder /srv/site hello\nhello from a template");
    expect(await started(derived.sandboxId)).toMatch(/^[0-9a-f-]{36}\n$/);
  });
});
