import { readdir } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

import { buildLogLineBytesMax, buildLogLinesMax, type RecipeInput } from "@roost/contract";
import { poll, run as runCommand } from "@roost/kit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { begin, buildTimeoutMs, endOf, hiddenVmm, logOf, untilSaid } from "../support/builds.ts";
import { usePlatform } from "../support/platform.ts";

/** What becomes of builds when what they work with is killed, hangs or never ends. One build at a time, so that others wait. */
const platform = usePlatform({ ROOST_BUILDS_AT_ONCE: "1" });

const base = { template: "base" };
const run = (command: string) => ({ kind: "run" as const, command, user: "root" });
/** How long a step goes on in `s`: time to see that it has begun, and to kill something */
const untilKilledSec = 8;
/** A ready command waits for a guest that has been up for so many `s`: time to do something meanwhile, in any guest */
const readyAfterSec = 8;

beforeAll(async () => platform().untilMemoryImage());
afterEach(async () => {
  for await (const { id, state } of platform().client.builds.list())
    expect(["ready", "failed", "cancelled"], `state of build ${id}`).toContain(state);
  expect(await hiddenTemplates("build-"), "what no build has made").toEqual([]);
});

/** What the host has of builds that did not become ready, by the start of its name. */
async function hiddenTemplates(prefix: string): Promise<string[]> {
  const ready = new Set<string>();
  for await (const { id, state } of platform().client.builds.list()) if (state === "ready") ready.add(`build-${id.replaceAll("-", "")}`);
  const names = await readdir(join(platform().folder, "templates")).catch(() => []); // none was made yet
  return names.filter((name) => name.startsWith(prefix) && !ready.has(name));
}

async function started(name: string, recipe: Partial<RecipeInput>): Promise<string> {
  return begin(platform(), name, { from: base, ...recipe });
}

describe("kill -9", () => {
  test(
    "of the platform, in a step and again while the template gets ready: the build goes on by itself each time",
    async () => {
      const id = await started("survivor", {
        steps: [
          run("cat /proc/sys/kernel/random/uuid > /srv/first"),
          run(`echo in the second; sleep ${untilKilledSec}; cp /srv/first /srv/second`),
        ],
        ready_command: `test $(cut -d. -f1 /proc/uptime) -ge ${readyAfterSec}`,
      });
      await untilSaid(platform(), id, "1 in the second");
      await platform().killHard();
      await platform().up();
      await untilSaid(platform(), id, "finalize READY");
      await platform().killHard();
      await platform().up();
      expect(await endOf(platform(), id)).toMatchObject({ state: "ready", failure: null, steps_done: 2, steps_cached: 2 });
      expect((await logOf(platform(), id)).filter((line) => line.includes("CACHED")).map((line) => line.slice(0, 12))).toEqual([
        "0 CACHED RUN",
        "0 CACHED RUN",
        "1 CACHED RUN",
      ]);
      const sandbox = await platform().sandbox({ template: "survivor" });
      expect((await sandbox.exec("cmp", { args: ["/srv/first", "/srv/second"] })).exit_code).toBe(0);
      await sandbox.delete();
    },
    buildTimeoutMs,
  );

  test(
    "of the VMM in a step: another one goes on from the step before; the second loss is the end",
    async () => {
      const steps = [run("cat /proc/sys/kernel/random/uuid > /srv/lost"), run(`echo at work; sleep ${untilKilledSec}; cat /srv/lost`)];
      const id = await started("lost", { steps });
      await untilSaid(platform(), id, "1 at work");
      const first = await hiddenVmm(platform());
      process.kill(first, "SIGKILL");
      expect(await endOf(platform(), id)).toMatchObject({ state: "ready", failure: null, steps_done: 2 });
      const log = await logOf(platform(), id);
      expect(
        log.filter((line) => line.startsWith("0 RUN")),
        "done once",
      ).toHaveLength(1);
      expect(
        log.filter((line) => line === "1 at work"),
        "done twice",
      ).toHaveLength(2);
      expect(log).toContainEqual(expect.stringContaining("another one goes on from the last step that was finished"));

      const again = await started("lost", { steps: [...steps.slice(0, 1), run("echo at work; sleep 1000")] });
      let pid: number | undefined;
      for (const times of [1, 2]) {
        await untilSaid(platform(), again, "1 at work", times);
        pid = await hiddenVmm(platform(), pid);
        process.kill(pid, "SIGKILL");
      }
      expect(await endOf(platform(), again)).toMatchObject({
        state: "failed",
        failure: { step: "1", message: expect.stringContaining("lost again") as string },
      });
    },
    buildTimeoutMs,
  );
});

describe("cancelled", () => {
  /** Takes connections and never says a word. */
  let registry: Server;
  const connections = new Set<Socket>();
  const port = () => (registry.address() as { port: number }).port;
  beforeAll(async () => {
    registry = createServer((socket) => {
      connections.add(socket);
      socket
        .on("close", () => connections.delete(socket))
        .on("error", () => undefined)
        .resume();
    });
    await new Promise<void>((resolve) => registry.listen(0, "127.0.0.1", resolve));
  });
  afterAll(() => {
    for (const socket of connections) socket.destroy();
    registry.close();
  });

  const untilAsked = async () =>
    poll({ what: "a question to the registry", timeoutMs: buildTimeoutMs, intervalMs: 50 }, async () =>
      connections.size > 0 ? true : undefined,
    );

  test(
    "while its image is asked for, also when the platform was killed meanwhile, and while it waits for its turn",
    async () => {
      const fetching = await started("silent", { from: { image: `127.0.0.1:${port()}/some/app:1` } });
      await untilAsked();
      const waiting = await started("behind", { steps: [run("true")] });
      expect(await platform().client.builds.get(waiting)).toMatchObject({ state: "waiting" });
      expect(await platform().client.builds.cancel(waiting)).toMatchObject({ state: "cancelled" });

      await platform().killHard();
      await poll({ what: "the end of the fetch with its platform", timeoutMs: 30_000 }, async () =>
        connections.size === 0 ? true : undefined,
      );
      await platform().up();
      await untilAsked();
      expect(await platform().client.builds.get(waiting)).toMatchObject({ state: "cancelled" });
      await platform().client.builds.cancel(fetching);
      expect(await endOf(platform(), fetching)).toMatchObject({ state: "cancelled", failure: null });
      await poll({ what: "the end of the fetch", timeoutMs: 30_000 }, async () => (connections.size === 0 ? true : undefined));
      const programs = await runCommand(["ps", "-eo", "args"]);
      expect(programs.split("\n").filter((line) => line.includes(`127.0.0.1:${port()}/`))).toEqual([]);
      const work = await readdir(join(platform().folder, "import-cache"));
      expect(work.filter((name) => name !== "blobs")).toEqual([]);
    },
    buildTimeoutMs,
  );

  test(
    "in a step that does not want to end, and while the template gets ready",
    async () => {
      const stubborn = await started("stubborn", {
        steps: [run("trap '' TERM INT HUP; setsid sleep 1000 & echo it stays; while :; do sleep 1000; done")],
      });
      await untilSaid(platform(), stubborn, "0 it stays");
      await platform().client.builds.cancel(stubborn);
      expect(await endOf(platform(), stubborn)).toMatchObject({ state: "cancelled", failure: null });

      const unready = await started("stubborn", {
        steps: [run("true")],
        start_command: "sleep 1000",
        ready_command: "echo not yet; false",
      });
      await untilSaid(platform(), unready, "finalize READY");
      await platform().client.builds.cancel(unready);
      expect(await endOf(platform(), unready)).toMatchObject({ state: "cancelled", failure: null });
      await expect(platform().client.sandboxes.create({ template: "stubborn" })).rejects.toMatchObject({ code: "template_not_found" });
    },
    buildTimeoutMs,
  );
});

test(
  "a step that prints without end: its log is cut, which it says, and the build goes on",
  async () => {
    const lines = buildLogLinesMax + 20_000;
    const id = await started("flood", {
      steps: [run(`head -c 20000000 /dev/zero | tr '\\0' x; echo; yes flood | head -n ${lines}; echo done > /srv/flooded`)],
    });
    expect(await endOf(platform(), id)).toMatchObject({ state: "ready", failure: null });
    let count = 0;
    let longest = 0;
    let last = "";
    for await (const { message } of platform().client.builds.logs(id)) {
      count += 1;
      longest = Math.max(longest, Buffer.byteLength(message));
      last = message;
    }
    expect(count).toBe(buildLogLinesMax);
    expect(longest).toBeLessThanOrEqual(buildLogLineBytesMax);
    expect(last).toBe(`the log ends here: it has ${buildLogLinesMax} lines`);
  },
  buildTimeoutMs,
);

test(
  "a step that never ends: the build fails when its time is up, and the same platform builds on",
  async () => {
    await platform().down();
    await platform().up(["--build-timeout-sec", "10"]);
    const id = await started("endless", { steps: [run("echo begun; sleep 1000")] });
    expect(await endOf(platform(), id)).toMatchObject({
      state: "failed",
      failure: { step: null, message: expect.stringContaining("longer than 10 s") as string },
    });
    await platform().down();
    await platform().up();
    const next = await started("endless", { steps: [run("true")] });
    expect(await endOf(platform(), next)).toMatchObject({ state: "ready" });
  },
  buildTimeoutMs,
);
