import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Cleanup, run, withDeadline } from "@roost/kit";
import { chromium, type BrowserContext } from "playwright-core";

const program = "/usr/bin/chromium";
/** Time for what stands between the browser and the platform to listen, in `ms` */
const listenTimeoutMs = 30_000;

/** Listens at the port on the loopback address of where it runs, and passes what comes to a Unix socket. */
const forwarder = `
const { connect, createServer } = require("node:net");
const [port, path] = process.argv.slice(1);
createServer((one) => {
  const other = connect(path);
  one.pipe(other).pipe(one);
  for (const each of [one, other]) each.on("error", () => { one.destroy(); other.destroy(); });
}).listen(Number(port), "127.0.0.1", () => console.log("ready"));
`;

/** Why no real browser can be tested with here; undefined when one can. */
export function whyNoBrowser(): string | undefined {
  if (!existsSync(program)) return "there is no Chromium: bash tools/bootstrap.sh --with-tests";
  if (!existsSync("/usr/bin/certutil")) return "there is no certutil: bash tools/bootstrap.sh --with-tests";
  return undefined;
}

/**
 * Debian's Chromium without a window, with a home of its own in which one authority is trusted, as `roost tls trust` does it. Nothing else of TLS is relaxed.
 *
 * It has a network of its own, of which it reaches one port of this machine's loopback address. In this machine's, where other tests make and remove links, it would break off what
 * it loads each time (`ERR_NETWORK_CHANGED`).
 */
export class TestBrowser implements AsyncDisposable {
  readonly context: BrowserContext;
  /** Requests that failed and what pages complained of, for who looks for the cause of a failure */
  readonly met: string[] = [];
  readonly #cleanup: Cleanup;

  private constructor(context: BrowserContext, cleanup: Cleanup) {
    this.context = context;
    this.#cleanup = cleanup;
    context.on("requestfailed", (request) => this.met.push(`${request.url()}: ${request.failure()?.errorText ?? "failed"}`));
    context.on("response", (answer) => this.met.push(`${answer.url()}: ${answer.status()}`));
    context.on("console", (message) => this.met.push(`${message.type()}: ${message.text()}`));
    context.on("weberror", (error) => this.met.push(`error: ${error.error().message}`));
  }

  static async start(options: { readonly authorityPath: string; readonly port: number }): Promise<TestBrowser> {
    const cleanup = new Cleanup();
    const home = await mkdtemp(join(tmpdir(), "roost-browser-"));
    cleanup.defer("remove its home", () => rm(home, { recursive: true, force: true, maxRetries: 5 }));
    try {
      const database = join(home, ".pki/nssdb");
      await mkdir(database, { recursive: true });
      await run(["certutil", "-N", "-d", `sql:${database}`, "--empty-password"]);
      await run(["certutil", "-A", "-d", `sql:${database}`, "-t", "C,,", "-n", "Roost", "-i", options.authorityPath]);
      const { pid } = await makeNetwork(join(home, "door.sock"), options.port, cleanup);
      const launcher = join(home, "chromium");
      await writeFile(launcher, `#!/bin/sh\nexec nsenter --net=/proc/${pid}/ns/net ${program} "$@"\n`);
      await chmod(launcher, 0o755);
      const context = await chromium.launchPersistentContext(join(home, "profile"), {
        executablePath: launcher,
        headless: true,
        chromiumSandbox: false, // tests run as root, whom Chromium's own sandbox refuses
        args: ["--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking"],
        env: { PATH: process.env["PATH"] ?? "", HOME: home, LANG: "C.UTF-8" },
        timeout: 60_000,
      });
      cleanup.defer("close the browser", () => context.close());
      return new TestBrowser(context, cleanup);
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.run();
  }
}

/** A network with a loopback address, whose `port` leads to that of this machine's. It lives as long as the process that is answered. */
async function makeNetwork(socketPath: string, port: number, cleanup: Cleanup): Promise<ChildProcess> {
  const door = createServer((one) => {
    const other = connect(port, "127.0.0.1");
    one.pipe(other).pipe(one);
    const end = () => {
      one.destroy();
      other.destroy();
    };
    for (const each of [one, other]) each.on("error", end);
  });
  door.listen(socketPath);
  await once(door, "listening");
  cleanup.defer("close the way to the platform", () => void door.close());
  const script = 'ip link set lo up && exec "$0" -e "$1" "$2" "$3"';
  const child = spawn("unshare", ["--net", "sh", "-c", script, process.execPath, forwarder, String(port), socketPath], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  cleanup.defer("end its network", () => void child.kill("SIGKILL"));
  await withDeadline("the way to the platform to listen", listenTimeoutMs, once(child.stdout, "data"));
  return child;
}
