import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { poll } from "@roost/kit";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { TestBrowser, whyNoBrowser } from "../support/browser.ts";
import { uploadPackages } from "../support/guest-packages.ts";
import { usePlatform, useSandbox } from "../support/platform.ts";

/**
 * A real browser on servers in a real guest: through the door with TLS, whose authority it trusts, to private ports that a signed URL opens. The servers
 * listen on the guest's loopback address, as dev servers do.
 */

const why = whyNoBrowser();
/** The guest's own Node.js is too old for Vite: the agent disk's is not. */
const agentNode = [
  "/run/roost/agent/lib/ld-linux-x86-64.so.2",
  "--library-path",
  "/run/roost/agent/lib",
  "/run/roost/agent/bin/node",
] as const;
/** Under software emulation a dev server starts slowly, in `ms` */
const startTimeoutMs = 90_000;

describe.skipIf(why !== undefined)(`a browser${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  const platform = usePlatform({ ROOST_TLS: "true", ROOST_TLS_PORT: "0" });
  const sandbox = useSandbox(platform);
  let browser: TestBrowser;
  beforeAll(async () => {
    const { url } = await sandbox().ports.get(3000);
    browser = await TestBrowser.start({ authorityPath: join(platform().folder, "tls/authority.pem"), port: Number(new URL(url).port) });
  }, 90_000);
  afterEach(({ task }) => {
    if (task.result?.state === "fail") process.stderr.write(`--- what the browser met ---\n${browser.met.join("\n")}\n`);
  });
  afterAll(async () => {
    await browser[Symbol.asyncDispose]();
  });

  /** A page that is open once the server in the sandbox answers. */
  async function open(port: number, path = "/"): Promise<Page> {
    const { url } = await sandbox().ports.sign(port, { path });
    const page = await browser.context.newPage();
    await poll({ what: `the server on port ${port}`, timeoutMs: startTimeoutMs, intervalMs: 500 }, async () =>
      (await page.goto(url, { timeout: 60_000, waitUntil: "commit" }))?.status() === 200 ? true : undefined,
    );
    return page;
  }

  test(
    "loads a web app with an upload, a WebSocket and an event stream; private, by TLS that it trusts",
    { timeout: 120_000 },
    async () => {
      await uploadPackages(sandbox(), "app", ["ws"]);
      await sandbox().files.write("app/server.mjs", await readFile(new URL("web-app/server.mjs", import.meta.url)));
      await sandbox().execBackground("node", { args: ["server.mjs", "3000"], cwd: "app", tag: "app" });
      const page = await open(3000);
      await page.waitForFunction(`document.title === "loaded"`, undefined, { timeout: 60_000 });
      const origin = new URL(page.url());
      // The grant is in no address that the page sees, and no cookie that its script or its server does
      expect(page.url()).toBe(`${origin.origin}/`);
      expect(origin.protocol).toBe("https:");
      expect(JSON.parse((await page.textContent("#facts")) ?? "")).toEqual({
        origin: origin.origin,
        isSecure: true,
        cookies: "app=its-own",
        answer: { bytes: 600_000, url: "/api?x=1", cookie: "app=its-own", host: origin.host },
        echo: "echo: hello from the page",
        events: ["1", "2", "3"],
      });
      expect(await page.evaluate(`getComputedStyle(document.querySelector("h1")).color`)).toBe("rgb(1, 2, 3)");
      const protocols = await page.evaluate(`performance.getEntriesByType("resource").map((entry) => entry.nextHopProtocol)`);
      expect(protocols).toContain("h2");
      await page.close();
    },
  );

  test("shows whom a private port without a signed URL is not for: a page, not JSON", { timeout: 60_000 }, async () => {
    const { url } = await sandbox().ports.get(3001);
    const page = await browser.context.newPage();
    const answer = await page.goto(url, { timeout: 30_000 });
    expect([answer?.status(), answer?.headers()["content-type"]]).toEqual([403, expect.stringContaining("text/html")]);
    await page.close();
  });

  test(
    "works with Vite's dev server: a changed module is replaced without a reload, a changed page is loaded anew",
    { timeout: 400_000 },
    async () => {
      await uploadPackages(sandbox(), "site", ["vite"]);
      const page1 = '<!doctype html><title>site</title><p id="text"></p><script type="module" src="/main.js"></script>';
      const main = `import { message } from "./message.js";
const show = (text) => (document.querySelector("#text").textContent = text);
show(message);
import.meta.hot.accept("./message.js", (changed) => show(changed.message));`;
      const message = (text: string) => `export const message = ${JSON.stringify(text)};\n`;
      await sandbox().files.write("site/index.html", page1);
      await sandbox().files.write("site/main.js", main);
      // There is nothing to bundle ahead, and looking for it takes long under software emulation
      await sandbox().files.write("site/vite.config.js", "export default { optimizeDeps: { noDiscovery: true } };\n");
      await sandbox().files.write("site/message.js", message("as it was"));
      const [loader, ...args] = agentNode;
      await sandbox().execBackground(loader, {
        args: [...args, "node_modules/vite/bin/vite.js", "--port", "5173", "--strictPort"],
        cwd: "site",
        envs: { CI: "1" },
        tag: "vite",
      });
      const page = await open(5173);
      const shows = async (text: string) =>
        page.waitForFunction(`document.querySelector("#text")?.textContent === ${JSON.stringify(text)}`, undefined, { timeout: 120_000 });
      await shows("as it was");
      await page.evaluate("globalThis.isSame = true");
      await sandbox().files.write("site/message.js", message("replaced"));
      await shows("replaced");
      expect(await page.evaluate("globalThis.isSame")).toBe(true);
      await sandbox().files.write("site/index.html", page1.replace("<title>site", "<title>another"));
      await page.waitForFunction(`document.title === "another"`, undefined, { timeout: 60_000 });
      expect(await page.evaluate("globalThis.isSame")).toBeUndefined();
      await page.close();
    },
  );
});
