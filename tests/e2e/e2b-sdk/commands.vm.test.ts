import { createHash, randomBytes } from "node:crypto";

import { AuthenticationError, CommandExitError, InvalidArgumentError, NotFoundError, Sandbox, SandboxError, TimeoutError } from "e2b";
import { describe, expect, test } from "vitest";

import { failureOf, output, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();
const sandbox = useE2bSandbox({ envs: { FROM: "create", ONLY: "create" } });
const run = (command: string, options: Parameters<Sandbox["commands"]["run"]>[1] = {}) =>
  sandbox().commands.run(command, { ...options, background: false });
const background = (command: string, options: Parameters<Sandbox["commands"]["run"]>[1] = {}) =>
  sandbox().commands.run(command, { timeoutMs: 0, ...options, background: true });

/** A pid that no process of a young guest has. */
const unknownPid = 4_000_000;

describe("foreground", () => {
  test("both outputs apart, and the exit code", async () => {
    expect(await run("echo out; echo err >&2")).toEqual({ exitCode: 0, stdout: "out\n", stderr: "err\n", error: undefined });
  });

  test("an exit code that is not 0 throws, with the output", async () => {
    const error = await failureOf(run("echo before; echo why >&2; exit 3"));
    expect(error).toBeInstanceOf(CommandExitError);
    expect(error).toMatchObject({ exitCode: 3, stdout: "before\n", stderr: "why\n", error: "exit status 3" });
  });

  test("the end by a signal is told as -1 and by name", async () => {
    expect(await failureOf(run("kill -KILL $$"))).toMatchObject({ exitCode: -1, error: "signal: killed" });
    expect(await failureOf(run("kill -TERM $$"))).toMatchObject({ exitCode: -1, error: "signal: terminated" });
  });

  test("a program that does not exist is the shell's 127", async () => {
    expect(await failureOf(run("no-such-program-here"))).toMatchObject({ exitCode: 127, stderr: expect.stringContaining("not found") });
  });

  test.each([
    ["a pipe", "printf 'b\\na\\n' | sort | tr '\\n' ' '", "a b "],
    ["lists", "true && echo yes || echo no", "yes\n"],
    ["quotes", `printf '%s|' "a b" 'c"d' e\\ f`, `a b|c"d|e f|`],
    ["several lines", "for i in 1 2 3\ndo\n  echo $i\ndone", "1\n2\n3\n"],
    ["a here document", "cat <<'END'\n$HOME `id`\nEND", "$HOME `id`\n"],
    ["bash's own syntax", "[[ abc == a* ]] && echo $((6*7)) ${BASH_VERSION:+bash}", "42 bash\n"],
    ["no output", ":", ""],
    ["unicode", "printf 'žluťoučký 🐎 %s' ünï", "žluťoučký 🐎 ünï"],
  ])("%s", async (_what, command, expected) => {
    expect((await run(command)).stdout).toBe(expected);
  });

  test("a login shell", async () => {
    expect((await run("shopt -q login_shell && echo login")).stdout).toBe("login\n");
  });

  test("multi-byte characters are not torn at the borders of chunks", async () => {
    const { stdout } = await run(`python3 -c "print('ž' * 200_001, end='')"`);
    expect(stdout).toBe("ž".repeat(200_001));
  });

  test("a lot of output, all of it", async () => {
    const { stdout } = await run("seq 1 200000");
    expect(createHash("sha256").update(stdout).digest("hex")).toBe(
      createHash("sha256")
        .update(Array.from({ length: 200_000 }, (_, index) => `${index + 1}\n`).join(""))
        .digest("hex"),
    );
  });

  test("bytes that are no text do not break it", async () => {
    const { stdout } = await run("printf 'a\\377\\376b'");
    expect(stdout).toBe("a\ufffd\ufffdb");
  });

  test("callbacks get everything, in order, also when they are slow", async () => {
    let out = "";
    let err = "";
    const result = await run("for i in $(seq 1 50); do echo o$i; echo e$i >&2; done", {
      onStdout: async (data) => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        out += data;
      },
      onStderr: (data) => {
        err += data;
      },
    });
    expect({ out, err }).toEqual({ out: result.stdout, err: result.stderr });
    expect(out).toBe(Array.from({ length: 50 }, (_, index) => `o${index + 1}\n`).join(""));
  });

  test("ten at once do not mix", async () => {
    const outputs = await Promise.all(Array.from({ length: 10 }, async (_, index) => (await run(`sleep 0.2; echo ${index}`)).stdout));
    expect(outputs).toEqual(Array.from({ length: 10 }, (_, index) => `${index}\n`));
  });
});

describe("where and as whom", () => {
  test("in the user's home by default, and elsewhere when told", async () => {
    expect((await run("pwd")).stdout).toBe("/home/user\n");
    expect((await run("pwd", { cwd: "/usr/lib" })).stdout).toBe("/usr/lib\n");
    expect((await run("pwd", { user: "root" })).stdout).toBe("/root\n");
  });

  test("a folder that does not exist", async () => {
    const error = await failureOf(run("true", { cwd: "/not/there" }));
    expect(error).toBeInstanceOf(InvalidArgumentError);
    expect(error.message).toContain("/not/there");
  });

  test("as user with sudo, or as root", async () => {
    expect((await run("id -un; sudo -n id -un")).stdout).toBe("user\nroot\n");
    expect((await run("id -u", { user: "root" })).stdout).toBe("0\n");
    expect(Number((await run("id -u")).stdout)).toBeGreaterThanOrEqual(1000);
  });

  test("an unknown user is an error", async () => {
    const error = await failureOf(run("true", { user: "nobody-here" }));
    expect(error).toBeInstanceOf(AuthenticationError);
    expect(error.message).toContain("invalid username: 'nobody-here'");
  });

  test("HOME, USER and PATH are the user's", async () => {
    expect((await run("echo $HOME $USER $LOGNAME")).stdout).toBe("/home/user user user\n");
    expect((await run("echo $HOME $USER", { user: "root" })).stdout).toBe("/root root\n");
    expect((await run("echo $PATH")).stdout).toContain("/usr/bin");
  });

  test("variables of the call win over those of the sandbox, for that call", async () => {
    expect((await run("echo $FROM $ONLY $MORE", { envs: { FROM: "call", MORE: "a b" } })).stdout).toBe("call create a b\n");
    expect((await run("echo $FROM $ONLY $MORE")).stdout).toBe("create create\n");
  });

  test("a variable of any content arrives as it is", async () => {
    const value = `quote " ' $HOME \\n\nžluť`;
    expect((await run(`printf %s "$ODD"`, { envs: { ODD: value } })).stdout).toBe(value);
  });
});

describe("timeouts and cancelling", () => {
  test("a command over its time is ended, and says so", async () => {
    const error = await failureOf(run("exec sleep 4711", { timeoutMs: 1_500 }));
    expect(error).toBeInstanceOf(TimeoutError);
    expect(error.message).toContain("timeoutMs");
    await until("the end of the process", async () => (await run("pgrep -f 'sleep 471[1]' || true")).stdout === "");
  });

  test("no limit when 0 is given", async () => {
    expect((await run("sleep 2; echo done", { timeoutMs: 0 })).stdout).toBe("done\n");
  });

  test("a request that is aborted", async () => {
    const abort = new AbortController();
    const failed = failureOf(run("sleep 60", { signal: abort.signal }));
    setTimeout(() => abort.abort(), 500);
    await failed;
    expect(await sandbox().isRunning()).toBe(true);
  });
});

describe("background", () => {
  test("a handle with a pid, and its result later", async () => {
    const handle = await background("sleep 0.5; echo done; exit 0");
    expect(handle.pid).toBeGreaterThan(0);
    expect(handle.exitCode).toBeUndefined();
    expect(await handle.wait()).toMatchObject({ exitCode: 0, stdout: "done\n" });
    expect(handle.exitCode).toBe(0);
  });

  test("an exit code that is not 0 throws from wait", async () => {
    const handle = await background("echo x; exit 9");
    expect(await failureOf(handle.wait())).toMatchObject({ exitCode: 9, stdout: "x\n" });
  });

  test("output is there while it runs", async () => {
    const handle = await background("echo now; sleep 300");
    await until("the first line", () => handle.stdout === "now\n");
    expect(await handle.kill()).toBe(true);
  });

  test("it is listed as the SDK started it", async () => {
    const handle = await background("sleep 301", { envs: { LISTED: "yes" }, cwd: "/tmp" });
    const found = (await sandbox().commands.list()).find(({ pid }) => pid === handle.pid);
    expect(found).toMatchObject({ cmd: "/bin/bash", args: ["-l", "-c", "sleep 301"], cwd: "/tmp" });
    expect(found?.envs).toMatchObject({ LISTED: "yes" });
    await handle.kill();
    await until("its end", async () => (await sandbox().commands.list()).every(({ pid }) => pid !== handle.pid));
  });

  test("kill ends it once", async () => {
    const handle = await background("sleep 302");
    const ended = failureOf(handle.wait());
    expect(await handle.kill()).toBe(true);
    expect(await ended).toMatchObject({ exitCode: -1, error: "signal: killed" });
    expect(await handle.kill()).toBe(false);
  });

  test("kill by pid, and of one that never was", async () => {
    const handle = await background("sleep 303");
    const ended = failureOf(handle.wait());
    expect(await sandbox().commands.kill(handle.pid)).toBe(true);
    await ended;
    expect(await sandbox().commands.kill(unknownPid)).toBe(false);
  });

  test("disconnect leaves it running; connect from elsewhere hears the rest and the end", async () => {
    const handle = await background("until [ -e ~/go ]; do sleep 0.1; done; echo heard; exit 4");
    await handle.disconnect();
    const other = await Sandbox.connect(sandbox().sandboxId);
    const again = await other.commands.connect(handle.pid, { timeoutMs: 0 });
    expect(again.pid).toBe(handle.pid);
    await sandbox().files.write("go", "");
    expect(await failureOf(again.wait())).toMatchObject({ exitCode: 4, stdout: "heard\n" });
  });

  test("two who listen hear the same", async () => {
    const handle = await background("until [ -e ~/both ]; do sleep 0.1; done; seq 1 1000");
    const second = await sandbox().commands.connect(handle.pid, { timeoutMs: 0 });
    await sandbox().files.write("both", "");
    const [one, other] = await Promise.all([handle.wait(), second.wait()]);
    expect(other.stdout).toBe(one.stdout);
    expect(one.stdout.endsWith("\n1000\n")).toBe(true);
  });

  test("connect with callbacks", async () => {
    const handle = await background("until [ -e ~/callbacks ]; do sleep 0.1; done; echo out; echo err >&2");
    let heard = "";
    const again = await sandbox().commands.connect(handle.pid, {
      timeoutMs: 0,
      onStdout: (data) => void (heard += data),
      onStderr: (data) => void (heard += data),
    });
    await sandbox().files.write("callbacks", "");
    await again.wait();
    expect(heard.split("\n").toSorted()).toEqual(["", "err", "out"]);
  });

  test("who connects shortly after the end still hears of it", async () => {
    const handle = await background("exit 6");
    await failureOf(handle.wait());
    const late = await sandbox().commands.connect(handle.pid);
    expect(await failureOf(late.wait())).toMatchObject({ exitCode: 6 });
  });

  test("connect to a process that never was", async () => {
    await expect(sandbox().commands.connect(unknownPid)).rejects.toBeInstanceOf(NotFoundError);
  });

  test("what it started goes on after the command itself", async () => {
    await run("(sleep 1; echo late > ~/late) > /dev/null 2>&1 &");
    await until("what the child wrote", async () => sandbox().files.exists("late"));
  });
});

describe("standard input", () => {
  test("closed at once unless it was asked for", async () => {
    expect((await run("cat; echo end")).stdout).toBe("end\n");
  });

  test("text and bytes, until it is closed", async () => {
    const handle = await background("cat", { stdin: true });
    await handle.sendStdin("line one\n");
    await until("the first line", () => handle.stdout === "line one\n");
    await sandbox().commands.sendStdin(handle.pid, new TextEncoder().encode("line two\n"));
    await handle.closeStdin();
    expect((await handle.wait()).stdout).toBe("line one\nline two\n");
  });

  test("bytes of any value", async () => {
    const bytes = randomBytes(1_000);
    const handle = await background("od -An -v -tx1 | tr -d ' \\n'", { stdin: true });
    await handle.sendStdin(bytes);
    await sandbox().commands.closeStdin(handle.pid);
    expect((await handle.wait()).stdout).toBe(bytes.toString("hex"));
  });

  test("a lot of it", async () => {
    const bytes = randomBytes(1_000_000);
    const handle = await background("sha256sum", { stdin: true });
    for (let at = 0; at < bytes.length; at += 64 * 1024) await handle.sendStdin(bytes.subarray(at, at + 64 * 1024));
    await handle.closeStdin();
    expect((await handle.wait()).stdout).toContain(createHash("sha256").update(bytes).digest("hex"));
  });

  test("a program that asks and waits", async () => {
    const handle = await background(`read -p "name? " name; echo "hello $name"`, { stdin: true });
    await handle.sendStdin("world\n");
    expect((await handle.wait()).stdout).toBe("hello world\n");
  });

  test("to a process that never was, or has none", async () => {
    await expect(sandbox().commands.sendStdin(unknownPid, "x")).rejects.toBeInstanceOf(NotFoundError);
    await expect(sandbox().commands.closeStdin(unknownPid)).rejects.toBeInstanceOf(NotFoundError);
    const handle = await background("sleep 304");
    await expect(handle.sendStdin("x")).rejects.toBeInstanceOf(SandboxError);
    await handle.kill();
  });
});

describe("what base has", () => {
  test.each(["bash", "sudo", "git", "curl", "tput", "python3", "python"])("%s", async (program) => {
    expect((await run(`command -v ${program}`)).stdout).toMatch(/^\/\S+\n$/);
  });

  test("root may do anything: mount, listen on low ports", async () => {
    await output(sandbox(), "mkdir -p /mnt/t && mount -t tmpfs none /mnt/t && umount /mnt/t", { user: "root" });
  });
});
