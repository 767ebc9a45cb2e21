import { poll } from "@roost/kit";
import { beforeAll, expect, test } from "vitest";

import { e2bEnvironment } from "../support/e2b-environment.ts";
import { usePlatform } from "../support/platform.ts";

/** What becomes of a sandbox's log in each thing that can happen to a sandbox. How it is read: ./e2b-sdk. */

const platform = usePlatform({ ROOST_POOL_SIZES: "base=1" });
beforeAll(async () => platform().untilMemoryImage());

interface Entry {
  readonly timestamp: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
}

async function entries(id: string): Promise<Entry[]> {
  const { E2B_API_KEY: key, E2B_API_URL: url } = e2bEnvironment(platform());
  const answer = await fetch(`${url}/v2/sandboxes/${id}/logs`, { headers: { "x-api-key": key } });
  if (answer.status !== 200) throw new Error(`logs were answered with ${answer.status}: ${await answer.text()}`);
  return ((await answer.json()) as { readonly logs: Entry[] }).logs;
}

/** What its processes wrote, and what happened to it. */
async function story(id: string): Promise<string[]> {
  const told = (await entries(id)).filter(({ fields }) => fields["event_type"] === "stdout" || fields["logger"] === "platform");
  return told.map(({ message, fields }) => (fields["logger"] === "platform" ? (fields["event_type"] ?? "") : message));
}

const echo = (text: string) => ["-c", `echo ${text}`];

test("pause, resume, checkpoint, rollback, fork, kill -9 of the platform: every line once, in its place", async () => {
  const sandbox = await platform().sandbox({ timeout_sec: 0 });
  await sandbox.exec("sh", { args: echo("one") });
  expect(await story(sandbox.id)).toEqual(["sandbox.created", "one"]); // who looks fetches: a pause does not
  await sandbox.pause();
  await sandbox.resume();
  await sandbox.exec("sh", { args: echo("two") });
  const { generation } = await sandbox.checkpoint();
  await sandbox.exec("sh", { args: echo("three") });
  expect((await story(sandbox.id)).filter((text) => !text.startsWith("sandbox."))).toEqual(["one", "two", "three"]);
  await sandbox.rollback(generation.number);
  await sandbox.exec("sh", { args: echo("instead") });

  const [forked] = await sandbox.fork(1);
  const child = platform().client.sandbox(forked !== undefined && "sandbox" in forked ? forked.sandbox.id : "");
  await child.exec("sh", { args: echo("child") });
  await platform().killHard();
  await platform().up();
  const again = platform().client.sandbox(sandbox.id);
  await again.exec("sh", { args: echo("after") });
  expect(await story(sandbox.id)).toEqual([
    "sandbox.created",
    "one",
    "sandbox.paused",
    "sandbox.resumed",
    "two",
    "sandbox.checkpointed",
    "three",
    "sandbox.rolled_back",
    "instead",
    "sandbox.forked",
    "after",
  ]);
  expect(await story(child.id)).toEqual(["sandbox.created", "child"]);

  await again.exec("sh", { args: echo("last words") });
  await again.delete();
  expect((await story(sandbox.id)).slice(-2)).toEqual(["last words", "sandbox.stopped"]);
  const times = (await entries(sandbox.id)).map(({ timestamp }) => timestamp);
  expect(times).toEqual(times.toSorted());
});

test("a sandbox from the warm pool has nothing of those who warmed it", async () => {
  const served = await poll({ what: "a create from the warm pool", timeoutMs: 60_000, intervalMs: 1_000 }, async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    if ((await sandbox.get()).start_path === "pool") return sandbox;
    await sandbox.delete();
    return undefined;
  });
  await served.exec("sh", { args: echo("mine") });
  expect((await entries(served.id)).map(({ message }) => message)).toEqual([
    "sandbox was created (pool)",
    "process started: sh -c echo mine",
    "mine",
    "process ended: exit status 0",
  ]);
});
