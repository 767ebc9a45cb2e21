import { spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";

import { defineOptions, identifyProcess, must, silentLogger } from "@roost/kit";
import { Command } from "commander";
import picocolors from "picocolors";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";

import { CommandContext } from "../context.ts";
import { Interrupts } from "../interrupts.ts";
import type { Io } from "../io.ts";
import { withSettings } from "../program/up-options.ts";
import { readEndpoint } from "../settings.ts";
import { checkDiskSpace, checkImages, checkPort } from "./checks.ts";
import { ConsoleLog } from "./console-log.ts";
import { sandboxFates, takeEndRequest, type SandboxFate } from "./end-request.ts";
import { readPauseReport, type PauseReport } from "./pause-report.ts";
import { findRunning, writeApiKey, writeEndpoint } from "./endpoint.ts";
import { nearest, refuseUnknownNames, logOptions } from "./platform-options.ts";
import { PlatformLock } from "./platform-lock.ts";
import { findPortOwner } from "./port-owner.ts";
import { RotatingLog } from "./rotating-log.ts";
import { serve } from "./serve.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-platform-test-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe("settings", () => {
  test("an unknown name is refused with the nearest known one", () => {
    expect(() => refuseUnknownNames({ ROOST_LOG_LEVLE: "debug", PATH: "/" }, [logOptions])).toThrow(
      "ROOST_LOG_LEVLE is not a setting; did you mean ROOST_LOG_LEVEL?",
    );
    expect(() => refuseUnknownNames({ ROOST_ZZZZZZZZ: "1" }, [logOptions])).toThrow(/is not a setting$/);
    expect(() => refuseUnknownNames({ ROOST_LOG_LEVEL: "debug" }, [logOptions])).not.toThrow();
    expect(nearest("ROOST_PROT", ["ROOST_PORT", "ROOST_DIR"])).toBe("ROOST_PORT");
  });

  test("each setting becomes a flag; only booleans take no value", () => {
    const table = defineOptions("ROOST_", {
      dir: { schema: z.string().default("/"), desc: "common to all commands" },
      slotCount: { schema: z.coerce.number().default(1), desc: "a number" },
      stopAll: { schema: z.union([z.boolean(), z.stringbool()]).default(false), desc: "a switch" },
    });
    const again = defineOptions("ROOST_", { slotCount: { schema: z.coerce.number(), desc: "the same" } });
    const command = withSettings(new Command("up").exitOverride(), [table, again]);
    command.parse(["--slot-count", "7", "--stop-all"], { from: "user" });
    expect(command.opts()).toEqual({ slotCount: "7", stopAll: true });
    expect(table.read({}, command.opts())).toEqual({ dir: "/", slotCount: 7, stopAll: true });
  });
});

describe("one platform per folder", () => {
  test("the lock is held once, by any path to the folder, and free again after release", async () => {
    const link = `${folder}-link`;
    await symlink(folder, link);
    try {
      {
        await using first = await PlatformLock.take(folder);
        expect(first).toBeDefined();
        expect(await PlatformLock.take(folder)).toBeUndefined();
        expect(await PlatformLock.take(link)).toBeUndefined();
      }
      await using again = await PlatformLock.take(folder);
      expect(again).toBeDefined();
    } finally {
      await rm(link);
    }
  });

  test("a killed holder gives it back", async () => {
    const script = `import { PlatformLock } from ${JSON.stringify(join(import.meta.dirname, "platform-lock.ts"))};
      console.log((await PlatformLock.take(process.argv[1])) === undefined ? "busy" : "held"); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script, folder], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    expect(said.toString()).toBe("held\n");
    expect(await PlatformLock.take(folder)).toBeUndefined();
    child.kill("SIGKILL");
    await once(child, "exit");
    await using lock = await PlatformLock.take(folder);
    expect(lock).toBeDefined();
  });

  test("an endpoint of a process that is gone, or of another with its pid, is not running", async () => {
    expect(await findRunning(folder)).toBeUndefined();
    await writeEndpoint(folder, "http://127.0.0.1:7070");
    expect((await findRunning(folder))?.identity.pid).toBe(process.pid);
    const endpoint = must(await readEndpoint(folder), "endpoint");
    await writeFile(join(folder, "endpoint.json"), JSON.stringify({ ...endpoint, startTicks: "1" }));
    expect(await findRunning(folder)).toBeUndefined();
    await writeFile(join(folder, "endpoint.json"), "{");
    await expect(findRunning(folder)).rejects.toThrow("is not what a platform of this version writes");
  });

  test("the API key is readable by its owner only", async () => {
    await writeApiKey(folder, "roost_00");
    expect((await stat(join(folder, "api-key"))).mode & 0o777).toBe(0o600);
  });
});

describe("logs", () => {
  test("a log is put aside when it is long, and the oldest is dropped", async () => {
    const log = new RotatingLog(join(folder, "logs/roost.log"), 100);
    for (let line = 0; line < 100; line += 1) log.write(`${String(line).padStart(29, "0")}\n`);
    const files = (await readdir(join(folder, "logs"))).sort();
    expect(files).toEqual(["roost.log", "roost.log.1", "roost.log.2", "roost.log.3", "roost.log.4", "roost.log.5"]);
    for (const file of files) expect((await stat(join(folder, "logs", file))).size, file).toBeLessThanOrEqual(100);
    expect(await readFile(join(folder, "logs/roost.log"), "utf8")).toContain("99\n");
    const again = new RotatingLog(join(folder, "logs/roost.log"), 100);
    again.write("after a restart\n");
    expect(await readFile(join(folder, "logs/roost.log"), "utf8")).toContain("99\n");
  });

  test("lines for people have time, level, message, context and error, and no control characters", () => {
    const stream = new PassThrough();
    const log = new ConsoleLog(stream, picocolors.createColors(false));
    const entry = {
      level: "warn",
      time: "2026-01-01T10:20:30.000Z",
      msg: "it is \u001b[2J odd",
      err: { message: "broken" },
      sandboxId: "i1",
      count: 2,
    };
    log.write(JSON.stringify(entry));
    log.write("not json\n");
    expect(String(stream.read())).toBe("10:20:30 warn  it is \\x1b[2J odd: broken sandboxId=i1 count=2\nnot json\n");
  });
});

describe("checks", () => {
  test("a taken port is told with its owner and another is proposed", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      expect(await findPortOwner(port)).toContain(`(pid ${process.pid})`);
      const check = await checkPort({ host: "127.0.0.1", port });
      expect(check).toMatchObject({ status: "fail" });
      expect(check.detail).toContain(`${port} is taken by `);
      expect(check.fix).toContain(`--port ${port + 1}`);
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
    expect(await checkPort({ host: "127.0.0.1", port })).toMatchObject({ status: "ok" });
    expect(await checkPort({ host: "192.0.2.1", port: 7070 })).toMatchObject({ status: "fail" });
  });

  test("missing, foreign and incomplete images", async () => {
    expect(await checkImages(folder)).toMatchObject({ status: "fail", fix: expect.stringContaining("npm run images") as string });
    const { mkdir } = await import("node:fs/promises");
    await mkdir(join(folder, "images"));
    await writeFile(join(folder, "images/images.json"), "{}");
    expect(await checkImages(folder)).toMatchObject({ status: "fail", detail: expect.stringContaining("another version") as string });
    const digest = `sha256:${"0".repeat(64)}`;
    const file = (path: string) => ({ path, digest });
    const set = {
      formatVersion: 1,
      kernel: { ...file("kernel"), version: "6.1" },
      initramfs: file("initramfs"),
      agentDisk: { ...file("agent"), agentVersion: "1" },
      templates: { base: { ...file("base"), diskSizeMib: 10 } },
    };
    await writeFile(join(folder, "images/images.json"), JSON.stringify(set));
    for (const name of ["kernel", "initramfs", "agent"]) await writeFile(join(folder, "images", name), "");
    expect(await checkImages(folder)).toMatchObject({ status: "fail", detail: expect.stringContaining("base is missing") as string });
    await writeFile(join(folder, "images/base"), "");
    expect(await checkImages(folder)).toMatchObject({ status: "ok", detail: "kernel 6.1; templates: base" });
  });

  test("disk space is measured where the folder will be", async () => {
    expect((await checkDiskSpace("state folder", join(folder, "not/yet/there"))).detail).toContain(`free in ${folder}`);
  });
});

describe("serving", () => {
  function contextWith(signals: EventEmitter): CommandContext {
    const io: Io = {
      stdin: new PassThrough(),
      stdout: new PassThrough(),
      stderr: new PassThrough(),
      environment: { ROOST_DIR: folder },
      signals,
      cwd: folder,
    };
    return new CommandContext(io, new Interrupts(signals, () => undefined), {});
  }
  const options = (sandboxes: SandboxFate = "leave") => ({ dir: folder, sandboxes, ignoresHangup: true });
  const nothingPaused = async () => ({ total: 0, paused: 0, failed: [], isOver: true });

  async function whenServing(): Promise<void> {
    await expect.poll(async () => readEndpoint(folder)).toBeDefined();
  }

  test("the first signal drains, then ends; the endpoint is there meanwhile and gone afterwards", async () => {
    const signals = new EventEmitter();
    const calls: string[] = [];
    const platform = {
      url: "http://127.0.0.1:1",
      drain: async () => void calls.push("drain"),
      pauseSandboxes: async () => nothingPaused(),
      close: async (how: { stopSandboxes: boolean }) => void calls.push(`close ${how.stopSandboxes}`),
    };
    const serving = serve(contextWith(signals), platform, options(), silentLogger);
    await whenServing();
    signals.emit("SIGHUP");
    await new Promise((resolve) => setImmediate(resolve));
    expect(calls).toEqual([]);
    signals.emit("SIGTERM");
    expect(await serving).toBe(0);
    expect(calls).toEqual(["drain", "close false"]);
    expect(await readEndpoint(folder)).toBeUndefined();
  });

  test("a second signal forces", async () => {
    const signals = new EventEmitter();
    const platform = {
      url: "http://127.0.0.1:1",
      drain: () => new Promise<void>(() => undefined),
      pauseSandboxes: nothingPaused,
      close: async () => undefined,
    };
    const serving = serve(contextWith(signals), platform, options(), silentLogger);
    await whenServing();
    signals.emit("SIGINT");
    signals.emit("SIGINT");
    expect(await serving).toBe(1);
    expect(await readEndpoint(folder)).toBeUndefined();
  });

  test("a signal that comes while it starts ends it in order, once it has", async () => {
    const signals = new EventEmitter();
    const calls: string[] = [];
    const platform = {
      url: "http://127.0.0.1:1",
      drain: async () => void calls.push("drain"),
      pauseSandboxes: nothingPaused,
      close: async () => void calls.push("close"),
    };
    const context = contextWith(signals);
    signals.emit("SIGTERM");
    expect(await serve(context, platform, options(), silentLogger)).toBe(0);
    expect(calls).toEqual(["drain", "close"]);
  });

  test("what `roost down` wants of the sandboxes reaches the process it was meant for, once", async () => {
    const self = must(await identifyProcess(process.pid), "identity");
    const request = async (startTicks: string, sandboxes: string) =>
      writeFile(join(folder, "end-request.json"), JSON.stringify({ pid: self.pid, startTicks, sandboxes }));
    for (const fate of sandboxFates) {
      await request(self.startTicks, fate);
      expect(takeEndRequest(folder, self)).toBe(fate);
    }
    expect(takeEndRequest(folder, self)).toBeUndefined();
    await request("1", "stop");
    expect(takeEndRequest(folder, self)).toBeUndefined();
  });

  test("sandboxes are paused between draining and the end, and how far that is can be read meanwhile", async () => {
    const self = must(await identifyProcess(process.pid), "identity");
    const signals = new EventEmitter();
    const calls: string[] = [];
    const failed = [{ sandboxId: "i1", message: "the disk is full" }];
    const platform = {
      url: "http://127.0.0.1:1",
      drain: async () => void calls.push("drain"),
      pauseSandboxes: async (onProgress: (report: PauseReport) => Promise<void>) => {
        await onProgress({ total: 3, paused: 1, failed: [], isOver: false });
        calls.push(`paused ${readPauseReport(folder, self)?.paused}`);
        return { total: 3, paused: 2, failed, isOver: true };
      },
      close: async (how: { stopSandboxes: boolean }) => void calls.push(`close ${how.stopSandboxes}`),
    };
    const serving = serve(contextWith(signals), platform, options("pause"), silentLogger);
    await whenServing();
    signals.emit("SIGTERM");
    expect(await serving).toBe(0);
    expect(calls).toEqual(["drain", "paused 1", "close false"]);
    expect(readPauseReport(folder, self)).toMatchObject({ total: 3, paused: 2, failed, isOver: true });
    expect(readPauseReport(folder, { ...self, startTicks: "1" })).toBeUndefined();
  });

  test("a platform that cannot pause its sandboxes ends all the same", async () => {
    const self = must(await identifyProcess(process.pid), "identity");
    const signals = new EventEmitter();
    const calls: string[] = [];
    const platform = {
      url: "http://127.0.0.1:1",
      drain: async () => undefined,
      pauseSandboxes: async () => Promise.reject(new Error("the host agent is gone")),
      close: async () => void calls.push("close"),
    };
    const serving = serve(contextWith(signals), platform, options("pause"), silentLogger);
    await whenServing();
    signals.emit("SIGTERM");
    expect(await serving).toBe(0);
    expect(calls).toEqual(["close"]);
    expect(readPauseReport(folder, self)).toBeUndefined();
  });
});
