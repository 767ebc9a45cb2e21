import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { run } from "@roost/kit";
import { chromium, type BrowserContext } from "playwright-core";

const program = "/usr/bin/chromium";

/** Why no real browser can be tested with here; undefined when one can. */
export function whyNoBrowser(): string | undefined {
  if (!existsSync(program)) return "there is no Chromium: bash tools/bootstrap.sh --with-tests";
  if (!existsSync("/usr/bin/certutil")) return "there is no certutil: bash tools/bootstrap.sh --with-tests";
  return undefined;
}

/** Debian's Chromium without a window, with a home of its own in which one authority is trusted, as `roost tls trust` does it. Nothing else of TLS is relaxed. */
export class TestBrowser implements AsyncDisposable {
  readonly context: BrowserContext;
  /** Requests that failed and what pages complained of, for who looks for the cause of a failure */
  readonly met: string[] = [];
  readonly #home: string;

  private constructor(context: BrowserContext, home: string) {
    this.context = context;
    context.on("requestfailed", (request) => this.met.push(`${request.url()}: ${request.failure()?.errorText ?? "failed"}`));
    context.on("response", (answer) => this.met.push(`${answer.url()}: ${answer.status()}`));
    context.on("console", (message) => this.met.push(`${message.type()}: ${message.text()}`));
    context.on("weberror", (error) => this.met.push(`error: ${error.error().message}`));
    this.#home = home;
  }

  static async start(authorityPath: string): Promise<TestBrowser> {
    const home = await mkdtemp(join(tmpdir(), "roost-browser-"));
    try {
      const database = join(home, ".pki/nssdb");
      await mkdir(database, { recursive: true });
      await run(["certutil", "-N", "-d", `sql:${database}`, "--empty-password"]);
      await run(["certutil", "-A", "-d", `sql:${database}`, "-t", "C,,", "-n", "Roost", "-i", authorityPath]);
      const context = await chromium.launchPersistentContext(join(home, "profile"), {
        executablePath: program,
        headless: true,
        chromiumSandbox: false, // tests run as root, whom Chromium's own sandbox refuses
        args: ["--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking"],
        env: { PATH: process.env["PATH"] ?? "", HOME: home, LANG: "C.UTF-8" },
        timeout: 60_000,
      });
      return new TestBrowser(context, home);
    } catch (error) {
      await rm(home, { recursive: true, force: true });
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.context.close();
    await rm(this.#home, { recursive: true, force: true, maxRetries: 5 });
  }
}
