import { poll } from "@roost/kit";
import { Sandbox } from "e2b";
import { beforeAll, expect, test } from "vitest";
import { z } from "zod";

import { DevTools } from "../../support/devtools.ts";
import { output, sandboxTimeoutMs, useE2b } from "../../support/e2b.ts";
import { buildRecipe, recipeTimeoutMs } from "../../support/recipe.ts";

/** Time a page takes to be there in an emulated guest, in `ms`; no more than a test may take */
const pageTimeoutMs = 120_000;

const platform = useE2b();
let sandbox: Sandbox;
beforeAll(async () => {
  await buildRecipe(platform(), "browser", { memoryMb: 1024 });
  sandbox = await Sandbox.create("browser", { timeoutMs: sandboxTimeoutMs });
}, recipeTimeoutMs);

const headers = () => ({ "e2b-sandbox-id": sandbox.sandboxId, "e2b-sandbox-port": "9222" });
const run = (command: string) => output(sandbox, command);

/** As any client finds the browser: it says where its web socket is, under the address that it was asked at. */
async function connect(): Promise<DevTools> {
  const answer = await fetch(new URL("/json/version", platform().client.url), { headers: headers() });
  expect(answer.status).toBe(200);
  const version = z.object({ Browser: z.string(), webSocketDebuggerUrl: z.string() }).parse(await answer.json());
  expect(version.Browser).toMatch(/^(?:Headless)?Chrome\//);
  return DevTools.connect(version.webSocketDebuggerUrl, headers());
}

test("the browser runs already when a sandbox starts, in its own sandbox, as a user who cannot become root", async () => {
  const record = await platform().client.sandboxes.get(sandbox.sandboxId);
  expect(record).toMatchObject({ start_path: "restore", memory_mb: 1024 });
  const main = await run("ps -eo user:16,args | grep '[r]emote-debugging-port=9222' | grep chromium/chromium | grep -v -- '--type='");
  expect(main).toMatch(/^browser /);
  expect(main).not.toContain("--no-sandbox");
  // A renderer that Chromium's sandbox holds is in namespaces of its own
  const find =
    "renderer=$(pgrep -f -- '--type=renderer' | head -1); sudo readlink /proc/$renderer/ns/user /proc/$renderer/ns/pid /proc/1/ns/user /proc/1/ns/pid";
  const [user = "", pid = "", ownUser = "", ownPid = ""] = (await run(find)).split("\n");
  expect([user, pid, ownUser, ownPid]).toEqual(["user", "pid", "user", "pid"].map((kind) => expect.stringMatching(`^${kind}:`) as string));
  expect([user === ownUser, pid === ownPid]).toEqual([false, false]);
  expect(await run("sudo -u browser sudo -n true 2>&1 || echo refused")).toContain("refused");
});

test("a page is opened, its script runs, and it is drawn", async () => {
  const page =
    "<title>loading</title><h1 style='color:red'>Hello</h1><script>document.title = 'sum ' + [1, 2, 39].reduce((a, b) => a + b)</script>";
  using devTools = await connect();
  const target = z.object({ targetId: z.string() });
  const url = `data:text/html,${encodeURIComponent(page)}`;
  const { targetId } = await devTools.send(target, "Target.createTarget", { url });
  const { sessionId } = await devTools.send(z.object({ sessionId: z.string() }), "Target.attachToTarget", { targetId, flatten: true });
  const evaluated = z.object({ result: z.object({ value: z.string() }) });
  const title = await poll({ what: "the page's title", timeoutMs: pageTimeoutMs, intervalMs: 200 }, async () => {
    const { result } = await devTools.send(evaluated, "Runtime.evaluate", { expression: "document.title" }, sessionId);
    return result.value.startsWith("sum") ? result.value : undefined;
  });
  expect(title).toBe("sum 42");
  const shot = await devTools.send(z.object({ data: z.string() }), "Page.captureScreenshot", { format: "png" }, sessionId);
  const png = Buffer.from(shot.data, "base64");
  expect(png.subarray(1, 4).toString()).toBe("PNG");
  expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([1280, expect.any(Number)]);
  await devTools.send(z.object({ success: z.boolean() }), "Target.closeTarget", { targetId });
});
