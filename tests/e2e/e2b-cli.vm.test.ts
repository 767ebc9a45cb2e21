import { createHash, randomBytes } from "node:crypto";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { roost } from "../support/cli.ts";
import { e2bEnvironment } from "../support/e2b-environment.ts";
import { output, ownSandbox, until, useE2b, useE2bSandbox } from "../support/e2b.ts";
import { openTerminal } from "../support/terminal.ts";

const platform = useE2b();
const sandbox = useE2bSandbox({ metadata: { made: "for-cli" }, envs: { FROM: "create" } });

const program = fileURLToPath(new URL("../../node_modules/.bin/e2b", import.meta.url));
/** Longest a call may take in `ms`. */
const callTimeoutMs = 60_000;

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "roost-e2b-cli-"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** Nothing of this machine's user, and no look for newer versions: the program talks to the platform only. */
const environment = () => ({
  PATH: process.env["PATH"],
  HOME: home,
  TERM: "xterm-256color",
  NO_COLOR: "1",
  FORCE_COLOR: "0",
  NO_UPDATE_NOTIFIER: "1",
  ...e2bEnvironment(platform()),
});

interface CallResult {
  readonly exitCode: number | null;
  readonly bytes: Buffer;
  readonly stdout: string;
  readonly stderr: string;
}

/** `input`: goes through a pipe; without it there is no standard input. */
async function e2b(args: readonly string[], input?: Buffer | string): Promise<CallResult> {
  const child = spawn(program, args, { env: environment(), stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"] });
  const collect = (stream: NodeJS.ReadableStream | null) => {
    const chunks: Buffer[] = [];
    stream?.on("data", (chunk: Buffer) => chunks.push(chunk));
    return chunks;
  };
  const [out, err] = [collect(child.stdout), collect(child.stderr)];
  child.stdin?.on("error", () => undefined); // a command may end without reading its input
  child.stdin?.end(input);
  const timer = setTimeout(() => child.kill("SIGKILL"), callTimeoutMs);
  const [exitCode] = (await once(child, "close")) as [number | null];
  clearTimeout(timer);
  const bytes = Buffer.concat(out);
  return { exitCode, bytes, stdout: bytes.toString(), stderr: Buffer.concat(err).toString() };
}

const exec = (args: readonly string[], input?: Buffer | string) => e2b(["sandbox", "exec", ...args], input);

test("`roost up` prints what E2B's tools need, and `roost e2b-env` prints it again", async () => {
  const exported = e2bEnvironment(platform());
  for (const name of ["E2B_API_URL", "E2B_SANDBOX_URL"] as const) expect(platform().output).toContain(`export ${name}=${exported[name]}`);
  expect(platform().output).toContain("export E2B_API_KEY=");
  expect(platform().output).not.toContain(exported.E2B_API_KEY); // its output is no terminal, and may be kept as a log
  expect(JSON.parse((await roost(platform(), ["e2b-env", "--json"])).stdout.toString())).toEqual(exported);
});

describe("sandbox list and info", () => {
  test("list shows the sandboxes that run", async () => {
    const { stdout, exitCode, stderr } = await e2b(["sandbox", "list"]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toContain(sandbox().sandboxId);
    expect(stdout).toContain("Running");
  });

  test("list as JSON, by metadata, state, template and order", async () => {
    const ids = async (...args: string[]) =>
      (JSON.parse((await e2b(["sandbox", "list", "--format", "json", ...args])).stdout) as { sandboxId: string }[]).map(
        ({ sandboxId }) => sandboxId,
      );
    const { sandboxId } = sandbox();
    expect(await ids("--metadata", "made=for-cli")).toEqual([sandboxId]);
    expect(await ids("--metadata", "made=for-nobody")).toEqual([]);
    expect(await ids("--state", "paused")).toEqual([]);
    expect(await ids("--state", "running,paused", "--template", "base", "--order", "asc", "--limit", "0")).toContain(sandboxId);
    expect(await ids("--started-after", "2099-01-01T00:00:00Z")).toEqual([]);
  });

  test("info for people and as JSON", async () => {
    const { sandboxId } = sandbox();
    expect((await e2b(["sandbox", "info", sandboxId])).stdout).toMatch(new RegExp(`Sandbox ID: ${sandboxId}[\\s\\S]*State: running`));
    expect(JSON.parse((await e2b(["sandbox", "info", sandboxId, "--format", "json"])).stdout)).toMatchObject({
      sandboxId,
      state: "running",
      metadata: { made: "for-cli" },
    });
    expect(await e2b(["sandbox", "info", "izzzzzzzzzzzzzzzzzzzz"])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("wasn't found"),
    });
  });
});

describe("sandbox exec", () => {
  test("both outputs and the exit code", async () => {
    expect(await exec([sandbox().sandboxId, "--", "echo out; echo err >&2; exit 7"])).toMatchObject({
      exitCode: 7,
      stdout: "out\n",
      stderr: expect.stringContaining("err\n"),
    });
  });

  test("arguments arrive as they are", async () => {
    const { stdout } = await exec([sandbox().sandboxId, "printf", "%s|", "a b", "$HOME", "'", ""]);
    expect(stdout).toBe("a b|$HOME|'||");
  });

  test("user, folder and variables", async () => {
    const { stdout } = await exec([
      "-u",
      "root",
      "-c",
      "/usr/lib",
      "-e",
      "MORE=given",
      sandbox().sandboxId,
      "id -un; pwd; echo $MORE $FROM",
    ]);
    expect(stdout).toBe("root\n/usr/lib\ngiven create\n");
  });

  test("text through a pipe, to its end", async () => {
    expect((await exec([sandbox().sandboxId, "tr", "a-z", "A-Z"], "piped text\n")).stdout).toBe("PIPED TEXT\n");
    expect((await exec([sandbox().sandboxId, "wc", "-c"], "")).stdout.trim()).toBe("0");
  });

  test("bytes through a pipe, a lot of them", async () => {
    const bytes = randomBytes(500_000);
    expect((await exec([sandbox().sandboxId, "sha256sum"], bytes)).stdout).toContain(createHash("sha256").update(bytes).digest("hex"));
  });

  test("text of any language comes back as it is", async () => {
    const text = "žluťoučký 🐎 ".repeat(20_000);
    const { bytes } = await exec([sandbox().sandboxId, "cat"], text);
    expect(createHash("sha256").update(bytes).digest("hex")).toBe(createHash("sha256").update(text).digest("hex"));
  });

  test("a program that does not read its input", async () => {
    expect(await exec([sandbox().sandboxId, "echo", "done"], randomBytes(200_000))).toMatchObject({ exitCode: 0, stdout: "done\n" });
  });

  test("in the background: the pid, and it goes on", async () => {
    const { exitCode, stderr } = await exec(["--background", sandbox().sandboxId, "sleep 306"]);
    expect(exitCode).toBe(0);
    const pid = Number(stderr.trim());
    expect((await sandbox().commands.list()).map((process) => process.pid)).toContain(pid);
    expect(await sandbox().commands.kill(pid)).toBe(true);
  });

  test("in a sandbox that is not there", async () => {
    expect(await exec(["izzzzzzzzzzzzzzzzzzzz", "true"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("not found") });
  });
});

describe("sandbox create and connect", () => {
  test("create attaches a terminal to a new sandbox, and lets it end afterwards", async () => {
    const { terminal, shows, ends, screen } = openTerminal(program, ["sandbox", "create", "base"], { environment: environment() });
    try {
      await shows(/sandbox ID i[0-9a-z]+/);
      const [, id = ""] = /sandbox ID (i[0-9a-z]+)/.exec(screen()) ?? [];
      await shows(/[$#] $/);
      terminal.write("echo $((40+2))-in-a-terminal; stty size\r");
      await shows(/42-in-a-terminal/);
      await shows(/\b30 100\b/);
      expect(await Sandbox.getInfo(id)).toMatchObject({ state: "running" });
      terminal.write("exit\r");
      expect(await ends()).toBe(0);
      await until("the sandbox's end", async () =>
        Sandbox.getInfo(id).then(
          () => false,
          () => true,
        ),
      );
    } finally {
      terminal.kill("SIGKILL");
    }
  });

  test("create without a terminal prints the id", async () => {
    const { exitCode, stdout } = await e2b(["sandbox", "create", "base", "--detach", "--timeout", "60", "--lifecycle.ontimeout", "pause"]);
    expect(exitCode).toBe(0);
    const id = stdout.trim().split("\n").at(-1) ?? "";
    const info = await Sandbox.getInfo(id);
    expect(info.lifecycle?.onTimeout).toBe("pause");
    expect(await Sandbox.kill(id)).toBe(true);
  });

  test("create from what does not exist", async () => {
    expect(await e2b(["sandbox", "create", "no-such-template", "--detach"])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("404"),
    });
  });

  test("connect attaches a terminal to one that runs", async () => {
    const { terminal, shows, ends } = openTerminal(program, ["sandbox", "connect", sandbox().sandboxId], { environment: environment() });
    try {
      await shows(/Terminal connecting/);
      await shows(/[$#] $/);
      terminal.write("echo $FROM-$((1+1))\r");
      await shows(/create-2/);
      terminal.write("exit\r");
      expect(await ends()).toBe(0);
    } finally {
      terminal.kill("SIGKILL");
    }
    expect(await sandbox().isRunning()).toBe(true);
  });
});

describe("sandbox logs and metrics", () => {
  test("logs show what commands wrote", async () => {
    await output(sandbox(), "echo logged-marker");
    await until(
      "the line",
      async () => (await e2b(["sandbox", "logs", sandbox().sandboxId, "--level", "DEBUG"])).stdout.includes("logged-marker"),
      1_000,
    );
    const { exitCode, stdout } = await e2b(["sandbox", "logs", sandbox().sandboxId, "--level", "DEBUG", "--format", "json"]);
    expect(exitCode).toBe(0);
    const lines = stdout
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.length).toBeGreaterThan(0);
    expect(JSON.stringify(lines)).toContain("logged-marker");
  });

  test("metrics show numbers", async () => {
    await until("metrics", async () => (await sandbox().getMetrics()).length > 0);
    const { exitCode, stdout } = await e2b(["sandbox", "metrics", sandbox().sandboxId]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/CPU: +[\d.]+% \/ +\d+ Core[\s\S]*Memory: +\d+ \/ \d+ +MiB \| Disk: +\d+ \/ \d+ +MiB/);
    expect((await e2b(["sandbox", "metrics", sandbox().sandboxId, "--format", "json"])).stdout).toContain('"memTotal":');
  });
});

describe("sandbox pause, resume, snapshot and kill", () => {
  test("pause and resume", async () => {
    await using own = await ownSandbox();
    expect((await e2b(["sandbox", "pause", own.sandboxId])).exitCode).toBe(0);
    expect((await own.getInfo()).state).toBe("paused");
    expect((await e2b(["sandbox", "resume", own.sandboxId])).exitCode).toBe(0);
    expect((await own.getInfo()).state).toBe("running");
  });

  test("snapshots are created, listed and deleted", async () => {
    const created = await e2b(["sandbox", "snapshot", "create", sandbox().sandboxId, "--name", "by-cli"]);
    expect(created).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("by-cli") });
    const listed = JSON.parse((await e2b(["sandbox", "snapshot", "list", "--format", "json"])).stdout) as { snapshotId: string }[];
    expect(listed).toHaveLength(1);
    const [{ snapshotId } = { snapshotId: "" }] = listed;
    expect((await e2b(["sandbox", "snapshot", "delete", snapshotId])).stdout).toContain("has been deleted");
  });

  test("kill by id, of what is not there, and of all by metadata", async () => {
    const own = await Sandbox.create({ metadata: { made: "to-be-killed" } });
    expect((await e2b(["sandbox", "kill", own.sandboxId])).stdout).toContain("has been killed");
    expect((await e2b(["sandbox", "kill", own.sandboxId])).stderr).toContain("wasn't found");
    const more = await Promise.all([1, 2].map(() => Sandbox.create({ metadata: { made: "to-be-killed" } })));
    expect((await e2b(["sandbox", "kill", "--all", "--metadata", "made=to-be-killed"])).stdout).toContain("Killed 2");
    for (const one of more) expect(await one.isRunning()).toBe(false);
    expect(await sandbox().isRunning()).toBe(true);
  });
});

describe("templates", () => {
  const create = (...args: string[]) =>
    e2b(["template", "create", "from-cli", "--path", join(home, "template"), "--cpu-count", "1", "--memory-mb", "512", ...args]);
  const listed = async (name: string) => {
    const { stdout } = await e2b(["template", "list", "--format", "json"]);
    return (JSON.parse(stdout) as { names: string[] }[]).find(({ names }) => names.includes(name));
  };
  beforeAll(async () => {
    const folder = join(home, "template");
    await mkdir(folder);
    await writeFile(join(folder, "greeting.txt"), "hello from a Dockerfile\n");
    await writeFile(
      join(folder, "e2b.Dockerfile"),
      "FROM e2bdev/base\nENV PLACE=here\nWORKDIR /srv/cli\nCOPY greeting.txt .\nRUN id -un > who\n",
    );
  });

  test("list shows base", async () => {
    const { exitCode, stdout } = await e2b(["template", "list"]);
    expect(exitCode).toBe(0);
    expect(stdout).toContain("base");
  });

  test("create builds a Dockerfile and shows how it goes; sandboxes are created of it", async () => {
    const { exitCode, stdout, stderr } = await create("--cmd", "touch /tmp/started; sleep 3600", "--ready-cmd", "test -e /tmp/started");
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toContain("RUN id -un > who");
    expect(stdout).toMatch(/Building sandbox template .*from-cli.* finished/);
    const { stdout: created } = await e2b(["sandbox", "create", "from-cli", "--detach"]);
    const id = created.trim().split("\n").at(-1) ?? "";
    expect((await exec([id, "cat greeting.txt who; id -un; echo $PLACE; ls /tmp/started"])).stdout).toBe(
      "hello from a Dockerfile\nroot\nuser\nhere\n/tmp/started\n",
    );
    expect(await Sandbox.kill(id)).toBe(true);
  });

  test("create says why a build failed", async () => {
    await writeFile(join(home, "template/broken"), "FROM e2bdev/base\nRUN echo it is broken; exit 7\n");
    const { exitCode, stdout, stderr } = await create("--dockerfile", "broken");
    expect(exitCode).toBe(1);
    expect(stdout).toContain("it is broken");
    expect(stderr).toContain("exit status 7");
    expect(await e2b(["template", "create", "base", "--path", join(home, "template")])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("base template"),
    });
  });

  test("publish, unpublish and delete", async () => {
    expect(await listed("from-cli")).toMatchObject({ public: false, cpuCount: 1, memoryMB: 512 });
    expect(await e2b(["template", "publish", "from-cli", "--yes"])).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining("Published as: from-cli"),
    });
    expect(await listed("from-cli")).toMatchObject({ public: true });
    expect((await e2b(["template", "unpublish", "from-cli", "--yes"])).exitCode).toBe(0);
    expect(await listed("from-cli")).toMatchObject({ public: false });
    expect((await e2b(["template", "delete", "from-cli", "--yes"])).exitCode).toBe(0);
    expect(await listed("from-cli")).toBeUndefined();
    for (const [command, name] of [
      ["delete", "from-cli"],
      ["publish", "from-cli"],
    ] as const) {
      expect(await e2b(["template", command, name, "--yes"])).toMatchObject({
        exitCode: 1,
        stderr: expect.stringContaining("no template"),
      });
    }
    expect(await e2b(["template", "delete", "base", "--yes"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("base") });
  });
});

describe("keys", () => {
  test("a key that nobody has", async () => {
    const child = spawn(program, ["sandbox", "list"], {
      env: { ...environment(), E2B_API_KEY: `e2b_${"0".repeat(40)}` },
      stdio: ["ignore", "ignore", "pipe"],
    });
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => void (stderr += chunk.toString()));
    expect(((await once(child, "close")) as [number])[0]).toBe(1);
    expect(stderr).toContain("Unauthorized");
  });
});
