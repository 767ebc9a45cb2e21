import { appendFile, chmod, mkdir, rename, rm, rmdir, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { Code, ConnectError } from "@connectrpc/connect";
import { poll, silentLogger } from "@roost/kit";
import { EventType, type FilesystemEvent, type WatchDirResponse } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { startFileServer, type TestFileServer } from "./test-file-server.ts";
import { watcherIdleMs, Watchers, watchersMax } from "./watchers.ts";

let agent: TestFileServer;
const streams: AbortController[] = [];
beforeEach(async () => {
  agent = await startFileServer();
});
afterEach(async () => {
  for (const stream of streams.splice(0)) stream.abort();
  await poll({ what: "watches released", timeoutMs: 30_000 }, () => {
    agent.watchers.close();
    return agent.watchers.size === 0 ? true : undefined;
  });
  await agent[Symbol.asyncDispose]();
});

const at = (...parts: string[]) => join(agent.home, ...parts);
const text = (event: FilesystemEvent) => `${EventType[event.type]} ${event.name}`;

/** A watch as a stream, with what it has told so far. */
async function watch(options: { path?: string; recursive?: boolean; includeEntry?: boolean } = {}) {
  const abort = new AbortController();
  streams.push(abort);
  const events: FilesystemEvent[] = [];
  const state: { started: boolean; end: string | undefined } = { started: false, end: undefined };
  const stream = agent.client.watchDir(
    { path: options.path ?? agent.home, recursive: options.recursive ?? false, includeEntry: options.includeEntry ?? false },
    { signal: abort.signal, headers: { "keepalive-ping-interval": "1" } },
  );
  const reading = (async (source: AsyncIterable<WatchDirResponse>) => {
    try {
      for await (const { event } of source) {
        if (event.case === "start") state.started = true;
        else if (event.case === "filesystem") events.push(event.value);
      }
      state.end = "end";
    } catch (error) {
      state.end = Code[ConnectError.from(error).code] ?? "?";
    }
  })(stream);
  await poll({ what: "the start of the watch", timeoutMs: 30_000 }, () => (state.started || state.end !== undefined ? true : undefined));
  /** All texts, once the last of them is `last`; what happened before has then been told, as events keep their order. */
  const until = async (last: string) => {
    await poll({ what: `the event "${last}"`, timeoutMs: 30_000, intervalMs: 5 }, () => {
      if (events.some((event) => text(event) === last)) return true;
      throw new Error(events.map(text).join(", "));
    });
    return events.map(text);
  };
  return { events, state, until, abort, reading };
}

/** Without repeats: one write of a file may be told as one event or as two. */
function merged(lines: readonly string[]): string[] {
  return lines.filter((line, index) => line !== lines[index - 1]);
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no error",
    (error: unknown) => Code[ConnectError.from(error).code] ?? "",
  );
}

describe("one folder", () => {
  test("every kind of event, with relative names and in order", async () => {
    await writeFile(at("old"), "");
    const { until } = await watch();
    await writeFile(at("file"), "content");
    await appendFile(at("file"), "more");
    await chmod(at("file"), 0o600);
    await rename(at("file"), at("renamed"));
    await unlink(at("renamed"));
    await mkdir(at("folder"));
    await rmdir(at("folder"));
    expect(merged(await until("REMOVE folder"))).toEqual([
      "CREATE file",
      "WRITE file",
      "CHMOD file",
      "RENAME file",
      "CREATE renamed",
      "REMOVE renamed",
      "CREATE folder",
      "REMOVE folder",
    ]);
  });

  test("what happens in a folder below is not told without recursive", async () => {
    await mkdir(at("below"));
    const { until } = await watch();
    await writeFile(at("below/hidden"), "");
    await writeFile(at("last"), "");
    expect(await until("CREATE last")).toEqual(["CREATE last"]);
  });

  test("an upload is one write of its file, whatever it does on the way", async () => {
    const headers = { "content-type": "application/octet-stream" };
    const { until } = await watch();
    await agent.call("POST", "/files?path=f", { headers, body: "1" });
    await agent.call("POST", "/files?path=f", { headers, body: "22" });
    await writeFile(at("last"), "");
    expect(await until("CREATE last")).toEqual(["CREATE f", "WRITE f", "WRITE f", "CREATE last"]);
  });

  test("the folder itself: CHMOD and RENAME of '.', and its removal is the end", async () => {
    await mkdir(at("watched"));
    const { until, state, reading } = await watch({ path: at("watched") });
    await chmod(at("watched"), 0o700);
    await rename(at("watched"), at("elsewhere"));
    await writeFile(at("elsewhere/f"), "");
    expect(await until("CREATE f")).toEqual(["CHMOD .", "RENAME .", "CREATE f"]);
    await rm(at("elsewhere"), { recursive: true });
    await reading;
    expect(state.end).toBe("end");
    expect((await until("REMOVE .")).at(-1)).toBe("REMOVE .");
  });

  test("a folder named by a link is watched", async () => {
    await mkdir(at("real"));
    await symlink("real", at("link"));
    const { until } = await watch({ path: at("link") });
    await writeFile(at("real/f"), "");
    expect(await until("CREATE f")).toEqual(["CREATE f"]);
  });

  test("entries are told when asked for, and missing where nothing is there any more", async () => {
    const { events, until } = await watch({ includeEntry: true });
    await writeFile(at("stays"), "12345");
    await until("WRITE stays");
    await unlink(at("stays"));
    await until("REMOVE stays");
    expect(events.find((event) => text(event) === "WRITE stays")?.entry).toMatchObject({ name: "stays", path: at("stays"), size: 5n });
    expect(events.find((event) => text(event) === "REMOVE stays")?.entry).toBeUndefined();
  });

  test("names that are not UTF-8 are told with replacement characters", async () => {
    const { until } = await watch({ recursive: true });
    const odd = Buffer.concat([Buffer.from(`${agent.home}/odd`), Buffer.from([0xff])]);
    await mkdir(odd);
    await writeFile(Buffer.concat([odd, Buffer.from("/in")]), "");
    expect(await until("CREATE odd\u{FFFD}/in")).toEqual(["CREATE odd\u{FFFD}", "CREATE odd\u{FFFD}/in"]);
  });

  test("keepalives come while nothing happens", async () => {
    const abort = new AbortController();
    const cases: (string | undefined)[] = [];
    for await (const { event } of agent.client.watchDir(
      { path: agent.home },
      { signal: abort.signal, headers: { "keepalive-ping-interval": "1" } },
    )) {
      cases.push(event.case);
      if (cases.length === 2) break;
    }
    abort.abort();
    expect(cases).toEqual(["start", "keepalive"]);
  });
});

describe("refused", () => {
  test("a file is an invalid argument, what is missing not found, an unknown user unauthenticated", async () => {
    await writeFile(at("file"), "");
    expect((await watch({ path: at("file") })).state.end).toBe("InvalidArgument");
    expect((await watch({ path: at("missing") })).state.end).toBe("NotFound");
    expect(await codeOf(agent.client.createWatcher({ path: at("file") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.createWatcher({ path: at("missing") }))).toBe("NotFound");
    expect(await codeOf(agent.client.createWatcher({ path: at("a\0") }))).toBe("InvalidArgument");
    const ghost = { headers: { authorization: `Basic ${Buffer.from("ghost:").toString("base64")}` } };
    expect(await codeOf(agent.client.createWatcher({ path: "~" }, ghost))).toBe("Unauthenticated");
  });

  test("more watches than allowed, and one more after one has gone", async () => {
    const ids: string[] = [];
    for (let count = 0; count < watchersMax; count += 1) ids.push((await agent.client.createWatcher({ path: agent.home })).watcherId);
    expect(new Set(ids).size).toBe(watchersMax);
    expect(await codeOf(agent.client.createWatcher({ path: agent.home }))).toBe("ResourceExhausted");
    expect((await watch()).state.end).toBe("ResourceExhausted");
    await agent.client.removeWatcher({ watcherId: ids[0] ?? "" });
    expect((await watch()).state).toEqual({ started: true, end: undefined });
  });

  test("a client that goes away gives its watch back", async () => {
    const { abort } = await watch();
    expect(agent.watchers.size).toBe(1);
    abort.abort();
    await poll({ what: "the watch released", timeoutMs: 30_000 }, () => (agent.watchers.size === 0 ? true : undefined));
  });
});

describe("recursive", () => {
  test("folders that are there, and folders made later, at any depth", async () => {
    await mkdir(at("a/b"), { recursive: true });
    const { until } = await watch({ recursive: true });
    await writeFile(at("a/b/f"), "");
    await mkdir(at("new"));
    await writeFile(at("new/g"), "");
    await unlink(at("a/b/f"));
    expect(await until("REMOVE a/b/f")).toEqual(["CREATE a/b/f", "CREATE new", "CREATE new/g", "REMOVE a/b/f"]);
  });

  test("a tree made at once is told whole, each name once", async () => {
    const { until } = await watch({ recursive: true });
    const expected: string[] = [];
    for (let index = 0; index < 20; index += 1) {
      // One call makes all four levels: most are there before the watch on the one above can be.
      await mkdir(at(`t${index}/x/y/z`), { recursive: true });
      await writeFile(at(`t${index}/x/y/z/f`), "");
      expected.push(`t${index}`, `t${index}/x`, `t${index}/x/y`, `t${index}/x/y/z`, `t${index}/x/y/z/f`);
    }
    await writeFile(at("last"), "");
    const seen = (await until("CREATE last")).filter((line) => line.startsWith("CREATE "));
    expect(seen.sort()).toEqual([...expected, "last"].map((name) => `CREATE ${name}`).sort());
  });

  test("a folder renamed inside keeps its watches under its new name, and what is in it is no news", async () => {
    await mkdir(at("from/sub"), { recursive: true });
    await writeFile(at("from/sub/old"), "");
    const { until } = await watch({ recursive: true });
    await rename(at("from"), at("to"));
    await writeFile(at("to/sub/f"), "");
    expect(await until("CREATE to/sub/f")).toEqual(["RENAME from", "CREATE to", "CREATE to/sub/f"]);
    await rename(at("to/sub"), at("sub"));
    await unlink(at("sub/f"));
    expect((await until("REMOVE sub/f")).slice(3)).toEqual(["RENAME to/sub", "CREATE sub", "REMOVE sub/f"]);
  });

  test("a folder moved in is new with all it holds; one moved out is forgotten", async () => {
    await mkdir(at("watched"));
    await mkdir(at("outside/deep"), { recursive: true });
    await writeFile(at("outside/deep/f"), "");
    const { until } = await watch({ path: at("watched"), recursive: true });
    await rename(at("outside"), at("watched/in"));
    expect(await until("CREATE in/deep/f")).toEqual(["CREATE in", "CREATE in/deep", "CREATE in/deep/f"]);
    await rename(at("watched/in"), at("out"));
    await until("RENAME in");
    await writeFile(at("watched/next"), ""); // by then it is known that nothing arrived elsewhere
    await until("CREATE next");
    await writeFile(at("out/deep/unseen"), "");
    await writeFile(at("watched/last"), "");
    expect((await until("CREATE last")).slice(3)).toEqual(["RENAME in", "CREATE next", "CREATE last"]);
  });

  test("a folder removed and made again is watched again", async () => {
    const { until } = await watch({ recursive: true });
    for (let round = 0; round < 10; round += 1) {
      await mkdir(at("x"));
      await writeFile(at(`x/f${round}`), "");
      await rm(at("x"), { recursive: true });
    }
    await writeFile(at("last"), "");
    const seen = (await until("CREATE last")).filter((line) => !line.startsWith("CHMOD"));
    expect(seen.filter((line) => line === "REMOVE x").length).toBe(10);
    expect(seen.filter((line) => line === "CREATE x").length).toBe(10);
  });

  test("a folder whose place was taken by another before we looked is told apart", async () => {
    const { events, until } = await watch({ recursive: true });
    for (let round = 0; round < 10; round += 1) {
      await mkdir(at(`a${round}/x`), { recursive: true });
      await rename(at(`a${round}`), at(`b${round}`));
      await mkdir(at(`a${round}/x`), { recursive: true });
      await writeFile(at(`b${round}/x/old`), "");
      await writeFile(at(`a${round}/x/new`), "");
    }
    await writeFile(at("last"), "");
    await until("CREATE last");
    const { entries } = await agent.client.listDir({ path: agent.home, depth: 9 });
    expect([...replay(events)].sort()).toEqual(entries.map((entry) => entry.path.slice(agent.home.length + 1)).sort());
  });

  test("links to folders are not entered", async () => {
    await mkdir(at("watched"));
    await mkdir(at("outside"));
    await symlink(at("outside"), at("watched/link"));
    const { until } = await watch({ path: at("watched"), recursive: true });
    await symlink(at("outside"), at("watched/link2"));
    await writeFile(at("outside/unseen"), "");
    await writeFile(at("watched/last"), "");
    expect(await until("CREATE last")).toEqual(["CREATE link2", "CREATE last"]);
  });

  test("whatever is made, moved and removed, the events lead to the tree that is there", async () => {
    const random = new SeededRandom();
    const { events, until } = await watch({ recursive: true });
    const folders = [""];
    const pick = () => folders[random.integer(folders.length)] ?? "";
    let names = 0;
    for (let step = 0; step < 400; step += 1) {
      const folder = pick();
      const name = join(folder, `n${(names += 1)}`);
      const action = random.integer(10);
      if (action < 4) {
        await mkdir(at(name));
        folders.push(name);
      } else if (action < 7) await writeFile(at(name), "");
      else if (action < 9 && folder !== "") {
        const target = join(
          random.pick([folders[0] ?? "", ...folders.filter((other) => other !== folder && !other.startsWith(`${folder}/`))]),
          `m${names}`,
        );
        await rename(at(folder), at(target));
        for (const [index, other] of folders.entries()) {
          if (other === folder || other.startsWith(`${folder}/`)) folders[index] = target + other.slice(folder.length);
        }
      } else if (folder !== "") {
        await rm(at(folder), { recursive: true });
        for (let index = folders.length - 1; index > 0; index -= 1) {
          if (folders[index] === folder || folders[index]?.startsWith(`${folder}/`) === true) folders.splice(index, 1);
        }
      }
    }
    await writeFile(at("last"), "");
    await until("CREATE last");
    const { entries } = await agent.client.listDir({ path: agent.home, depth: 64 });
    const real = new Set(entries.map((entry) => entry.path.slice(agent.home.length + 1)));
    expect([...replay(events)].sort(), `SEED=${random.seed}`).toEqual([...real].sort());
  });
});

/**
 * The names that exist after the events, for somebody who knows nothing but them, and that names with an "m" are those
 * things are moved to. What moved with a folder is not told again, unless it was found before its move was known.
 */
function replay(events: readonly FilesystemEvent[]): Set<string> {
  const names = new Set<string>();
  let moved: { from: string; names: string[] } | undefined;
  for (const { name, type } of events) {
    const within = [...names].filter((other) => other === name || other.startsWith(`${name}/`));
    if (type === EventType.REMOVE) for (const other of within) names.delete(other);
    else if (type === EventType.RENAME) {
      for (const other of within) names.delete(other);
      moved = { from: name, names: within };
    } else if (type === EventType.CREATE) {
      names.add(name);
      if (/(?:^|\/)[mb]\d+$/.test(name)) for (const other of moved?.names ?? []) names.add(name + other.slice(moved?.from.length ?? 0));
      moved = undefined;
    }
  }
  return names;
}

describe("polled", () => {
  test("events are given once, in order, and a removed watcher is not found", async () => {
    const { watcherId } = await agent.client.createWatcher({ path: agent.home, recursive: true });
    expect((await agent.client.getWatcherEvents({ watcherId })).events).toEqual([]);
    await mkdir(at("sub"));
    await writeFile(at("sub/f"), "x");
    const seen: string[] = [];
    await poll({ what: "events", timeoutMs: 30_000 }, async () => {
      seen.push(...(await agent.client.getWatcherEvents({ watcherId })).events.map(text));
      return seen.includes("WRITE sub/f") ? true : undefined;
    });
    expect(seen).toEqual(["CREATE sub", "CREATE sub/f", "WRITE sub/f"]);
    expect((await agent.client.getWatcherEvents({ watcherId })).events).toEqual([]);
    await agent.client.removeWatcher({ watcherId });
    expect(await codeOf(agent.client.getWatcherEvents({ watcherId }))).toBe("NotFound");
    expect(await codeOf(agent.client.removeWatcher({ watcherId }))).toBe("NotFound");
  });

  test("a watcher that nobody polls any more is removed; each poll gives it time again", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const watchers = new Watchers(silentLogger);
      const request = { path: agent.home, recursive: false, allowNetworkMounts: false };
      const id = await watchers.create(request, false, new AbortController().signal);
      vi.advanceTimersByTime(watcherIdleMs - 1);
      expect(watchers.drain(id).events).toEqual([]);
      vi.advanceTimersByTime(watcherIdleMs - 1);
      expect(watchers.size).toBe(1);
      vi.advanceTimersByTime(1);
      expect(watchers.size).toBe(0);
      expect(() => watchers.drain(id)).toThrow(/not found/);
    } finally {
      vi.useRealTimers();
    }
  });

  test("more events than may wait end the watcher with an error, every time it is asked", async () => {
    await using small = await startFileServer({ queuedEventsMax: 50 });
    const { watcherId } = await small.client.createWatcher({ path: small.home });
    for (let index = 0; index < 60; index += 1) await writeFile(join(small.home, String(index)), "");
    const poller = async () => codeOf(small.client.getWatcherEvents({ watcherId }));
    await new Promise((resolve) => setTimeout(resolve, 50)); // the events are on their way while nobody polls
    await poll({ what: "the loss", timeoutMs: 30_000 }, async () => ((await poller()) === "ResourceExhausted" ? true : undefined));
    expect(await poller()).toBe("ResourceExhausted");
    const error = await small.client.getWatcherEvents({ watcherId }).catch((reason: unknown) => ConnectError.from(reason));
    expect(error).toMatchObject({ code: Code.ResourceExhausted, rawMessage: expect.stringContaining("events were lost") });
    await small.client.removeWatcher({ watcherId });
    expect(small.watchers.size).toBe(0);
  });

  test("a stream whose reader does not keep up ends with an error, and gives its watch back", async () => {
    await using small = await startFileServer({ queuedEventsMax: 100 });
    // Events outrun a reader only when the connection is full, which takes megabytes: names as long as they get.
    const deep = join(small.home, ...Array.from({ length: 15 }, () => "n".repeat(240)));
    await mkdir(deep, { recursive: true });
    const stream = small.client.watchDir({ path: small.home, recursive: true })[Symbol.asyncIterator]();
    expect((await stream.next()).value).toMatchObject({ event: { case: "start" } });
    for (let index = 0; index < 3000; index += 1) {
      await writeFile(join(deep, "f"), "");
      await unlink(join(deep, "f"));
    }
    const failure = await (async () => {
      for (;;) if ((await stream.next()).done === true) return "end";
    })().catch((error: unknown) => Code[ConnectError.from(error).code]);
    expect(failure).toBe("ResourceExhausted");
    await poll({ what: "the watch released", timeoutMs: 30_000 }, () => (small.watchers.size === 0 ? true : undefined));
  });
});
