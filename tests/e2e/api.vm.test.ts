import { randomBytes } from "node:crypto";

import { poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { describe, expect, test } from "vitest";

import { usePlatform, useSandbox } from "../support/platform.ts";

const platform = usePlatform();
const sandbox = useSandbox(platform, { envs: { PROJECT: "roost", PATH_LIKE: "from-create" }, metadata: { team: "a" } });

const sh = (script: string, options: Parameters<SandboxHandle["exec"]>[1] = {}) =>
  sandbox().exec("sh", { ...options, args: ["-c", script] });

describe("exec", () => {
  test("keeps both streams apart and passes the exit code", async () => {
    expect(await sh("echo out; echo err >&2; exit 3")).toMatchObject({ stdout: "out\n", stderr: "err\n", exit_code: 3, encoding: "utf-8" });
  });

  test("a signal's end is 128 and its number", async () => {
    expect((await sh("kill -9 $$")).exit_code).toBe(137);
  });

  test("bytes that are not UTF-8 come as base64", async () => {
    const result = await sh("printf '\\377\\376\\000'");
    expect(result.encoding).toBe("base64");
    expect(Buffer.from(result.stdout, "base64")).toEqual(Buffer.from([255, 254, 0]));
  });

  test("environment: the call's wins over the sandbox's", async () => {
    expect((await sh("echo $PROJECT $PATH_LIKE $HOME $USER $ROOST_SANDBOX_ID", { envs: { PATH_LIKE: "from-call" } })).stdout.trim()).toBe(
      `roost from-call /home/user user ${sandbox().id}`,
    );
  });

  test("cwd and user", async () => {
    expect((await sh("pwd; id -un", { cwd: "/tmp" })).stdout).toBe("/tmp\nuser\n");
    expect((await sh("pwd; id -un", { user: "root" })).stdout).toBe("/root\nroot\n");
    expect((await sh("sudo id -un")).stdout).toBe("root\n");
  });

  test("an unknown user is an error, never root", async () => {
    await expect(sh("id", { user: "nobody-here" })).rejects.toMatchObject({ code: "user_unknown", status: 400 });
  });

  test("a missing folder, a missing program", async () => {
    await expect(sh("id", { cwd: "/not/there" })).rejects.toMatchObject({
      status: 400,
      message: expect.stringContaining("cwd '/not/there'"),
    });
    await expect(sandbox().exec("no-such-program-here")).rejects.toMatchObject({
      status: 400,
      message: expect.stringContaining("no-such-program-here"),
    });
  });

  test("text on standard input", async () => {
    expect((await sandbox().exec("wc", { args: ["-c"], stdin: "héllo" })).stdout.trim()).toBe("6");
  });

  test("a command over its time is killed with all its children", async () => {
    await expect(sh("sleep 611 & sleep 611", { timeout_sec: 1 })).rejects.toMatchObject({ code: "exec_timeout", status: 504 });
    await poll({ what: "the end of the children", timeoutMs: 20_000 }, async () =>
      (await sh("pgrep -f 'sleep 61[1]'")).exit_code === 1 ? true : undefined,
    );
  });

  test("more output than an answer may hold is refused with what to use instead", async () => {
    await expect(sh("head -c 20000000 /dev/zero")).rejects.toMatchObject({
      code: "output_too_large",
      status: 413,
      message: expect.stringContaining("exec/stream"),
    });
  });

  test("orphans are reaped", async () => {
    await sh("(sleep 0.1 &) ; exit 0");
    await poll({ what: "no zombies", timeoutMs: 20_000 }, async () =>
      (await sh("ps -eo stat= | grep -c '^Z'")).stdout.trim() === "0" ? true : undefined,
    );
  });
});

describe("exec/stream", () => {
  test("output comes while the command runs, input goes in", async () => {
    const stream = await sandbox().execStream("sh", {
      args: ["-c", "echo ready; while read line; do echo got $line; done; echo done"],
      stdin: true,
    });
    let seen = "";
    for await (const event of stream) {
      if (event.type === "stdout") {
        seen += event.data.toString();
        if (seen === "ready\n") await stream.write("one\n");
        if (seen === "ready\ngot one\n") await stream.closeStdin();
      } else if (event.type === "exit") expect(event.exitCode).toBe(0);
    }
    expect(seen).toBe("ready\ngot one\ndone\n");
  });

  test("stop ends the whole process group", async () => {
    const stream = await sandbox().execStream("sh", { args: ["-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.2; done"] });
    let seen = "";
    let exitCode: number | undefined;
    for await (const event of stream) {
      if (event.type === "stdout") seen += event.data.toString();
      if (event.type === "stdout" && seen === "up\n") await stream.stop();
      if (event.type === "exit") exitCode = event.exitCode;
    }
    expect(seen).toBe("up\nbye\n");
    expect(exitCode).toBe(9);
  });
});

describe("processes", () => {
  test("a background command is listed, attached to, and signalled by its tag", async () => {
    const { pid, tag } = await sandbox().execBackground("sh", { args: ["-c", "while :; do echo tick; sleep 0.2; done"], tag: "ticker" });
    expect(tag).toBe("ticker");
    expect(await sandbox().processes.list()).toContainEqual({
      pid,
      tag,
      cmd: "sh",
      args: ["-c", "while :; do echo tick; sleep 0.2; done"],
    });
    await expect(sandbox().execBackground("sleep", { args: ["1"], tag })).rejects.toMatchObject({ code: "tag_taken" });

    const stream = await sandbox().processes.attach(tag);
    let ticks = 0;
    let exitCode: number | undefined;
    for await (const event of stream) {
      if (event.type === "stdout") ticks += 1;
      if (event.type === "stdout" && ticks === 3) await sandbox().processes.signal(tag, "SIGTERM");
      if (event.type === "exit") exitCode = event.exitCode;
    }
    expect(exitCode).toBe(143);
    expect((await sandbox().processes.list()).map((process) => process.pid)).not.toContain(pid);
    await expect(sandbox().processes.signal(tag)).rejects.toMatchObject({ code: "process_not_found" });
  });
});

describe("files", () => {
  test("write, stat, list, move, remove", async () => {
    const content = randomBytes(10_000);
    const entry = await sandbox().files.write("project/src/data.bin", content);
    expect(entry).toMatchObject({
      path: "/home/user/project/src/data.bin",
      type: "file",
      size: 10_000,
      owner: "user",
      permissions: "-rw-r--r--",
    });
    expect(await sandbox().files.stat("~/project/src/data.bin")).toEqual(entry);
    expect((await sandbox().files.readBytes("/home/user/project/src/data.bin")).equals(content)).toBe(true);
    expect((await sandbox().files.list("project", { depth: 5 })).map(({ path }) => path)).toEqual([
      "/home/user/project/src",
      "/home/user/project/src/data.bin",
    ]);
    await sandbox().files.move("project/src/data.bin", "project/new/place.bin");
    expect(await sandbox().files.exists("project/src/data.bin")).toBe(false);
    await sandbox().files.remove("project");
    await sandbox().files.remove("project");
    await expect(sandbox().files.stat("project")).rejects.toMatchObject({ code: "file_not_found" });
    await expect(sandbox().files.readText("project")).rejects.toMatchObject({ code: "file_not_found" });
  });

  test("a folder is made once", async () => {
    await sandbox().files.makeFolder("made/deep");
    await expect(sandbox().files.makeFolder("made/deep")).rejects.toMatchObject({ code: "file_exists", status: 409 });
  });

  test("another user's files are that user's", async () => {
    expect(await sandbox().files.write("note", "x", { user: "root" })).toMatchObject({ path: "/root/note", owner: "root" });
    await expect(sandbox().files.stat("note", { user: "nobody-here" })).rejects.toMatchObject({ code: "user_unknown" });
  });

  test("a watch tells of each change, in new folders too", async () => {
    await sandbox().files.makeFolder("watched");
    const watch = await sandbox().files.watch("watched", { recursive: true });
    await sh("cd ~/watched && echo 1 > a && mkdir -p sub/deep && sleep 1 && echo 2 > sub/deep/b && rm a && touch last");
    const seen: string[] = [];
    for await (const change of watch) {
      seen.push(`${change.event} ${change.name}`);
      if (change.name === "last") break;
    }
    expect(seen).toEqual(expect.arrayContaining(["create a", "write a", "create sub", "create sub/deep", "create sub/deep/b", "remove a"]));
  });
});

describe("the sandbox itself", () => {
  test("list filters by state, template and metadata, and pages", async () => {
    const ids = async (options: Parameters<ReturnType<typeof platform>["client"]["sandboxes"]["list"]>[0]) => {
      const found: string[] = [];
      for await (const { id } of platform().client.sandboxes.list(options)) found.push(id);
      return found;
    };
    expect(await ids({ metadata: { team: "a" }, states: ["running"], template: "base", limit: 1 })).toEqual([sandbox().id]);
    expect(await ids({ metadata: { team: "b" } })).toEqual([]);
    expect(await ids({ states: ["failed"] })).toEqual([]);
  });

  test("its metrics appear", async () => {
    await sh("head -c 30000000 /dev/zero | sha256sum");
    const metrics = await poll({ what: "a metrics point", timeoutMs: 60_000, intervalMs: 500 }, async () => {
      const now = await sandbox().metrics("5m");
      return now.points.some((point) => point.cpu_pct > 0 && point.mem_bytes > 0) ? now : undefined;
    });
    expect(metrics.memory_total_bytes).toBeGreaterThan(400 * 1024 * 1024);
    expect(
      metrics.points.every((point) => point.cpu_pct >= 0 && point.cpu_pct <= 100 && point.mem_bytes <= metrics.memory_total_bytes),
    ).toBe(true);
  });

  test("its console can be read", async () => {
    await sh("echo hello console | sudo tee /dev/ttyS0 > /dev/null");
    await poll({ what: "the line on the console", timeoutMs: 20_000 }, async () =>
      (await sandbox().logs()).toString().includes("hello console") ? true : undefined,
    );
  });

  test("inactivity pauses it, and an open stream is activity", async () => {
    const own = await platform().sandbox({ timeout_sec: 0 });
    const stream = await own.execStream("sh", { args: ["-c", "sleep 6; echo still here"] });
    await own.setTimeout(2);
    let output = "";
    for await (const event of stream) if (event.type === "stdout") output += event.data.toString();
    expect(output).toBe("still here\n");
    await poll({ what: "the pause by inactivity", timeoutMs: 60_000, intervalMs: 200 }, async () => {
      const now = await platform().client.sandboxes.get(own.id);
      return now.state === "paused" ? true : undefined;
    });
    await own.delete();
  });

  test("a create in flight is aborted by delete", async () => {
    const creating = platform()
      .client.sandboxes.create({ metadata: { test: "abort" } })
      .catch((error: unknown) => error);
    const id = await poll({ what: "the record", timeoutMs: 20_000, intervalMs: 20 }, async () => {
      for await (const found of platform().client.sandboxes.list({ metadata: { test: "abort" } })) return found.id;
      return undefined;
    });
    await platform().client.sandboxes.delete(id);
    expect(await creating).toMatchObject({ code: "create_aborted", status: 409 });
    expect((await platform().client.sandboxes.get(id)).state).toBe("stopped");
  });

  test("what cannot be is refused by name, value and limit", async () => {
    await expect(platform().client.sandboxes.create({ template: "nothing" })).rejects.toMatchObject({
      code: "template_not_found",
      status: 404,
    });
    await expect(platform().client.sandboxes.create({ vcpus: 1000 })).rejects.toMatchObject({
      code: "request_invalid",
      message: expect.stringMatching(/vcpus.*1000.*16/s),
    });
    await expect(platform().client.sandboxes.create({ memory_mb: 60_000 })).rejects.toMatchObject({
      code: "capacity_exhausted",
      status: 503,
    });
    await expect(platform().client.sandboxes.get("nothere")).rejects.toMatchObject({ code: "sandbox_not_found", status: 404 });
  });
});

describe("the base template", () => {
  test.each(["bash", "sudo", "git", "curl", "tput", "python3", "python", "node", "npm"])("has %s", async (program) => {
    expect((await sh(`command -v ${program}`)).exit_code).toBe(0);
  });

  test("runs Node, Python and npm", async () => {
    const { stdout, stderr } = await sh("node -p 6*7; python -c 'print(6*7)'; npm --version", { timeout_sec: 120 });
    expect(stdout, stderr).toMatch(/^42\n42\n\d+\.\d+\.\d+\n$/);
  }, 130_000);

  test("its root file system takes extended attributes", async () => {
    expect(
      (
        await sh(`touch x && python3 -c "import os; os.setxattr('x', 'user.note', b'1'); print(os.getxattr('x', 'user.note'))"`)
      ).stdout.trim(),
    ).toBe("b'1'");
  });
});
