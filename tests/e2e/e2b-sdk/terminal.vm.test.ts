import { CommandExitError, GitAuthError, GitUpstreamError, InvalidArgumentError, NotFoundError, Sandbox, TimeoutError } from "e2b";
import { beforeAll, describe, expect, test } from "vitest";

import { failureOf, output, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();
const sandbox = useE2bSandbox({ envs: { FROM: "create" } });

const unknownPid = 4_000_000;
const bytesOf = (text: string) => new TextEncoder().encode(text);

/** A terminal and what it showed. */
async function openTerminal(options: Partial<Parameters<Sandbox["pty"]["create"]>[0]> = {}) {
  const decoder = new TextDecoder();
  let screen = "";
  const onData = (data: Uint8Array) => void (screen += decoder.decode(data, { stream: true }));
  const handle = await sandbox().pty.create({ cols: 80, rows: 24, timeoutMs: 0, onData, ...options });
  return {
    handle,
    type: (text: string) => sandbox().pty.sendInput(handle.pid, bytesOf(text)),
    shows: (what: RegExp) =>
      until(`a screen that shows ${what}`, () => {
        if (what.test(screen)) return screen;
        throw new Error(JSON.stringify(screen.slice(-300)));
      }),
    clear: () => {
      screen = "";
    },
  };
}

describe("pty", () => {
  test("a shell with a prompt that echoes, runs and ends with its exit code", async () => {
    const { handle, type, shows } = await openTerminal();
    expect(handle.pid).toBeGreaterThan(0);
    await shows(/[$#] $/);
    await type("echo $((40+2))-$FROM-$TERM\n");
    await shows(/42-create-xterm-256color/);
    const ended = failureOf(handle.wait());
    await type("exit 7\n");
    expect(await ended).toBeInstanceOf(CommandExitError);
    expect(await ended).toMatchObject({ exitCode: 7 });
  });

  test("has the size it was given, and follows a new one", async () => {
    const { handle, type, shows } = await openTerminal({ cols: 101, rows: 31 });
    await type("stty size\n");
    await shows(/\b31 101\b/);
    await sandbox().pty.resize(handle.pid, { cols: 132, rows: 43 });
    await type("stty size\n");
    await shows(/\b43 132\b/);
    await handle.kill();
  });

  test("as another user, elsewhere, with variables", async () => {
    const { handle, type, shows } = await openTerminal({ user: "root", cwd: "/usr/lib", envs: { MORE: "given", TERM: "vt100" } });
    await type("echo $(id -un):$(pwd):$MORE:$TERM\n");
    await shows(/root:\/usr\/lib:given:vt100/);
    await handle.kill();
  });

  test("Ctrl-C interrupts what runs in it, and the shell goes on", async () => {
    const { handle, type, shows } = await openTerminal();
    await shows(/[$#] $/);
    await type("sleep 305\n");
    await until("the sleep", async () => (await output(sandbox(), "pgrep -f 'sleep 30[5]' || true")) !== "");
    await type("\u0003");
    await type("echo still-$((1+1))\n");
    await shows(/still-2/);
    await handle.kill();
  });

  test("Ctrl-D ends it", async () => {
    const { handle, type, shows } = await openTerminal();
    await shows(/[$#] $/);
    await type("\u0004");
    expect(await handle.wait()).toMatchObject({ exitCode: 0 });
  });

  test("text of any language in both directions", async () => {
    const { handle, type, shows } = await openTerminal();
    await type("printf '%s\\n' 'žluť 🐎' | tr ž Z\n");
    await shows(/luť 🐎/u);
    await handle.kill();
  });

  test("is a terminal to programs", async () => {
    const { handle, type, shows } = await openTerminal();
    await type("[ -t 0 ] && [ -t 1 ] && echo is-a-$((0))-tty; tput cols\n");
    await shows(/is-a-0-tty\s+80/);
    await handle.kill();
  });

  test("is listed among the commands, and ended by kill, once", async () => {
    const { handle } = await openTerminal();
    expect(await sandbox().commands.list()).toContainEqual(
      expect.objectContaining({ pid: handle.pid, cmd: "/bin/bash", args: ["-i", "-l"] }),
    );
    const ended = failureOf(handle.wait());
    expect(await sandbox().pty.kill(handle.pid)).toBe(true);
    expect(await ended).toMatchObject({ exitCode: -1, error: "signal: killed" });
    expect(await sandbox().pty.kill(handle.pid)).toBe(false);
  });

  test("outlives its connection; who connects hears what comes", async () => {
    const { handle, type, shows } = await openTerminal();
    await shows(/[$#] $/);
    await type("KEPT=found\n");
    await handle.disconnect();
    const other = await Sandbox.connect(sandbox().sandboxId);
    let screen = "";
    const again = await other.pty.connect(handle.pid, { timeoutMs: 0, onData: (data) => void (screen += Buffer.from(data).toString()) });
    await other.pty.sendInput(again.pid, bytesOf("echo $KEPT-$((2+3))\n"));
    await until("the answer", () => screen.includes("found-5"));
    await again.kill();
  });

  test("over its time it is ended", async () => {
    const { handle } = await openTerminal({ timeoutMs: 1_500 });
    expect(await failureOf(handle.wait())).toBeInstanceOf(TimeoutError);
    await until("its end", async () => (await sandbox().commands.list()).every(({ pid }) => pid !== handle.pid));
  });

  test("of one that never was", async () => {
    await expect(sandbox().pty.connect(unknownPid)).rejects.toBeInstanceOf(NotFoundError);
    await expect(sandbox().pty.resize(unknownPid, { cols: 1, rows: 1 })).rejects.toBeInstanceOf(NotFoundError);
    await expect(sandbox().pty.sendInput(unknownPid, bytesOf("x"))).rejects.toBeInstanceOf(NotFoundError);
  });
});

describe("git", () => {
  const git = () => sandbox().git;
  const write = (path: string, text: string) => sandbox().files.write(path, text);
  let repositories = 0;
  /** A repository with one commit of `file`. */
  async function repository(): Promise<string> {
    repositories += 1;
    const path = `/home/user/repository-${repositories}`;
    await git().init(path, { initialBranch: "main" });
    await write(`${path}/file`, "one\n");
    await git().add(path);
    await git().commit(path, "first");
    return path;
  }

  beforeAll(async () => {
    await sandbox().git.configureUser("Ada", "ada@example.com");
  });

  test("who commits is configured", async () => {
    expect(await git().getConfig("user.name")).toBe("Ada");
    expect(await git().getConfig("user.email")).toBe("ada@example.com");
  });

  test("settings of the user and of one repository", async () => {
    const path = await repository();
    await git().setConfig("pull.rebase", "true");
    await git().setConfig("pull.rebase", "false", { scope: "local", path });
    expect(await git().getConfig("pull.rebase")).toBe("true");
    expect(await git().getConfig("pull.rebase", { scope: "local", path })).toBe("false");
    expect(await git().getConfig("no.such-setting")).toBeUndefined();
    await expect(git().setConfig("a.b", "c", { scope: "local" })).rejects.toBeInstanceOf(InvalidArgumentError);
  });

  test("status tells each kind of change", async () => {
    const path = await repository();
    for (const name of ["changed", "removed", "old-name"]) await write(`${path}/${name}`, `${name}\n`.repeat(20));
    await git().add(path);
    await git().commit(path, "more");
    expect(await git().status(path)).toMatchObject({ currentBranch: "main", isClean: true, hasChanges: false, totalCount: 0 });
    await write(`${path}/changed`, "other\n");
    await write(`${path}/new-file`, "x");
    await write(`${path}/staged`, "x");
    await output(sandbox(), "rm removed && git mv old-name new-name && git add staged", { cwd: path });
    const status = await git().status(path);
    expect(Object.fromEntries(status.fileStatus.map(({ name, status: is }) => [name, is]))).toEqual({
      changed: "modified",
      removed: "deleted",
      "new-name": "renamed",
      staged: "added",
      "new-file": "untracked",
    });
    expect(status).toMatchObject({ isClean: false, hasStaged: true, hasUntracked: true, untrackedCount: 1, totalCount: 5 });
  });

  test("a commit's author and an empty commit", async () => {
    const path = await repository();
    await git().commit(path, "empty", { allowEmpty: true, authorName: "Grace", authorEmail: "grace@example.com" });
    expect(await output(sandbox(), "git log -1 --format='%an <%ae> %s'", { cwd: path })).toBe("Grace <grace@example.com> empty");
    await expect(git().commit(path, "nothing changed")).rejects.toBeInstanceOf(CommandExitError);
  });

  test("branches are made, changed and deleted", async () => {
    const path = await repository();
    await git().createBranch(path, "feature");
    expect(await git().branches(path)).toEqual({ branches: expect.arrayContaining(["main", "feature"]), currentBranch: "feature" });
    await git().commit(path, "on the branch", { allowEmpty: true });
    await git().checkoutBranch(path, "main");
    await expect(git().deleteBranch(path, "feature")).rejects.toBeInstanceOf(CommandExitError); // not merged
    await git().deleteBranch(path, "feature", { force: true });
    expect((await git().branches(path)).branches).toEqual(["main"]);
  });

  test("restore and reset take changes back", async () => {
    const path = await repository();
    const read = () => sandbox().files.read(`${path}/file`);
    await write(`${path}/file`, "two\n");
    await git().restore(path, { paths: ["file"] });
    expect(await read()).toBe("one\n");
    await write(`${path}/file`, "two\n");
    await git().add(path, { files: ["file"] });
    await git().restore(path, { paths: ["file"], staged: true });
    expect((await git().status(path)).stagedCount).toBe(0);
    expect(await read()).toBe("two\n");
    await git().reset(path, { mode: "hard" });
    expect(await read()).toBe("one\n");
    await git().commit(path, "later", { allowEmpty: true });
    await git().reset(path, { mode: "soft", target: "HEAD~1" });
    expect(await output(sandbox(), "git rev-list --count HEAD", { cwd: path })).toBe("1");
  });

  test("remotes are added, replaced and read", async () => {
    const path = await repository();
    expect(await git().remoteGet(path, "origin")).toBeUndefined();
    await git().remoteAdd(path, "origin", "/one");
    await expect(git().remoteAdd(path, "origin", "/two")).rejects.toBeInstanceOf(CommandExitError);
    await git().remoteAdd(path, "origin", "/two", { overwrite: true });
    expect(await git().remoteGet(path, "origin")).toBe("/two");
  });

  test("push, clone and pull through a bare repository", async () => {
    const path = await repository();
    const shared = `${path}.git`;
    await git().init(shared, { bare: true, initialBranch: "main" });
    await git().remoteAdd(path, "origin", shared);
    await git().push(path, { remote: "origin", branch: "main", setUpstream: true });
    expect(await git().status(path)).toMatchObject({ upstream: "origin/main", ahead: 0, behind: 0 });
    const copy = `${path}-copy`;
    await git().clone(shared, { path: copy, branch: "main", depth: 1 });
    await write(`${copy}/file`, "two\n");
    await git().add(copy);
    await git().commit(copy, "second");
    expect(await git().status(copy)).toMatchObject({ ahead: 1 });
    await git().push(copy);
    await git().pull(path);
    expect(await sandbox().files.read(`${path}/file`)).toBe("two\n");
  });

  test("pull and push without an upstream have an error of their own", async () => {
    const path = await repository();
    await expect(git().pull(path)).rejects.toBeInstanceOf(GitUpstreamError);
    await git().remoteAdd(path, "origin", "/nowhere");
    await expect(git().push(path, { setUpstream: false })).rejects.toBeInstanceOf(GitUpstreamError);
  });

  test("through a git daemon in the sandbox, shallow and whole", async () => {
    const path = await repository();
    const daemon = await sandbox().commands.run("git daemon --reuseaddr --export-all --base-path=/home/user --port=9418 /home/user", {
      background: true,
      timeoutMs: 0,
    });
    const url = `git://127.0.0.1${path.replace("/home/user", "")}`;
    await until("the daemon", async () => (await output(sandbox(), `git ls-remote ${url} 2>/dev/null || true`)) !== "");
    await git().clone(url, { path: `${path}-cloned` });
    expect(await sandbox().files.read(`${path}-cloned/file`)).toBe("one\n");
    await daemon.kill();
  });

  test("a server that wants credentials and does not like them", async () => {
    const server = [
      "import http.server",
      "class H(http.server.BaseHTTPRequestHandler):",
      "  def do_GET(self):",
      "    self.send_response(401); self.send_header('WWW-Authenticate', 'Basic realm=x'); self.send_header('Content-Length', '0'); self.end_headers()",
      "http.server.HTTPServer(('127.0.0.1', 8401), H).serve_forever()",
    ].join("\n");
    await sandbox().files.write("/tmp/wants-credentials.py", server);
    const running = await sandbox().commands.run("python3 /tmp/wants-credentials.py", { background: true, timeoutMs: 0 });
    await until(
      "the server",
      async () => (await output(sandbox(), "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8401/ || true")) === "401",
    );
    const url = "http://127.0.0.1:8401/private.git";
    await expect(git().clone(url, { path: "/tmp/private" })).rejects.toBeInstanceOf(GitAuthError);
    await expect(git().clone(url, { path: "/tmp/private", username: "u", password: "p" })).rejects.toBeInstanceOf(GitAuthError);
    await running.kill();
  });

  test("credentials that are stored on purpose", async () => {
    await git().dangerouslyAuthenticate({ username: "ada", password: "s3cret", host: "git.example.com" });
    expect(await sandbox().files.read(".git-credentials")).toContain("ada:s3cret@git.example.com");
  });
});
