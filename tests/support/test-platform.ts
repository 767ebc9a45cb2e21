import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { poll } from "@roost/kit";
import { RoostClient, type SandboxHandle } from "@roost/sdk";
import { listOwnedResources } from "@roost/testing";

const repository = fileURLToPath(new URL("../..", import.meta.url));
export const roostProgram = join(repository, "node_modules/.bin/roost");

/** Time a platform may take to listen in `ms`: a new database is made, and an accelerator probed. */
const startTimeoutMs = 60_000;
const stopTimeoutMs = 60_000;
/** Time the memory image of a template takes to be made in `ms`: a boot, and then some. */
const memoryImageTimeoutMs = 120_000;

export type PlatformSettings = Readonly<Record<`ROOST_${string}`, string>>;

/** A whole platform as a user runs it: `roost up` in a process of its own, with a folder and a port of its own. */
export class TestPlatform implements AsyncDisposable {
  readonly folder: string;
  #process: ChildProcess | undefined;
  #output = "";
  #client: RoostClient | undefined;

  readonly #settings: PlatformSettings;

  private constructor(folder: string, settings: PlatformSettings) {
    this.folder = folder;
    this.#settings = settings;
  }

  /** `settings`: such as `{ ROOST_POOL_SIZES: "base=2" }`; by default no VMs wait, and memory images are made and used. `parent`: where its folder is. */
  static async start(settings: PlatformSettings = {}, parent: string = tmpdir()): Promise<TestPlatform> {
    const platform = new TestPlatform(await mkdtemp(join(parent, "roost-e2e-")), settings);
    try {
      await platform.up();
    } catch (error) {
      await platform.saveEvidence("start");
      await platform.killHard();
      await rm(platform.folder, { recursive: true, force: true });
      throw error;
    }
    return platform;
  }

  get client(): RoostClient {
    if (this.#client === undefined) throw new Error("the platform is not up");
    return this.#client;
  }

  get pid(): number {
    return this.#process?.pid ?? Number.NaN;
  }

  /** What the server has printed, its newest part. */
  get output(): string {
    return this.#output;
  }

  /** What the CLI and the platform need to use this installation and no other. */
  get environment(): NodeJS.ProcessEnv {
    const inherited = Object.entries(process.env).filter(([name]) => !/^(ROOST_(?!CACHE_DIR)|VITEST|NODE_ENV|FORCE_COLOR)/.test(name));
    return { ...Object.fromEntries(inherited), ROOST_DIR: this.folder, ROOST_POOL_SIZES: "none", NO_COLOR: "1", ...this.#settings };
  }

  /** Starts the server, or starts it again after it was killed. */
  async up(flags: readonly string[] = []): Promise<void> {
    await rm(join(this.folder, "endpoint.json"), { force: true });
    const child = spawn(roostProgram, ["up", "--port", "0", ...flags], { env: this.environment, stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    const keep = (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString()).slice(-100_000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const { url } = await poll({ what: "the platform's endpoint", timeoutMs: startTimeoutMs, intervalMs: 50 }, async () => {
      if (child.exitCode !== null) throw new Error(`roost up exited with ${child.exitCode}: ${this.#output}`);
      return JSON.parse(await readFile(join(this.folder, "endpoint.json"), "utf8")) as { url: string };
    });
    const apiKey = (await readFile(join(this.folder, "api-key"), "utf8")).trim();
    this.#client = new RoostClient({ url, apiKey });
    await poll({ what: "the platform's health", timeoutMs: startTimeoutMs, intervalMs: 50 }, async () =>
      (await fetch(`${url}/health`)).ok ? true : undefined,
    );
  }

  /** As a power cut would: no signal handler runs. */
  async killHard(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Ends the server in an orderly way; sandboxes stay. */
  async down(): Promise<void> {
    await this.#end("SIGTERM");
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    this.#client = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit", { signal: AbortSignal.timeout(stopTimeoutMs) });
    child.kill(signal);
    await exited;
  }

  /** A sandbox from `base`, deleted by the platform's end at the latest. */
  async sandbox(input: Parameters<RoostClient["sandboxes"]["create"]>[0] = {}): Promise<SandboxHandle> {
    const { id } = await this.client.sandboxes.create(input);
    return this.client.sandbox(id);
  }

  /** Resolves when sandboxes of `base` start from memory: the image is made once per machine, in the background. */
  async untilMemoryImage(): Promise<void> {
    await poll({ what: "the memory image of base", timeoutMs: memoryImageTimeoutMs, intervalMs: 100 }, async () => {
      const { id, start_path: startPath } = await this.client.sandboxes.create();
      await this.client.sandboxes.delete(id);
      return startPath === "boot" ? undefined : true;
    });
  }

  /** Log and consoles of a failed test, kept in the checkout's `evidence` folder. */
  async saveEvidence(name: string): Promise<void> {
    const target = join(repository, "evidence", `${name.replaceAll(/[^a-zA-Z0-9]+/g, "-").slice(0, 80)}-${Date.now()}`);
    await mkdir(target, { recursive: true });
    for (const part of ["logs", "sandboxes"]) {
      await cp(join(this.folder, part), join(target, part), {
        recursive: true,
        filter: (path) => !/\.(qcow2|raw|sock)$|\/memory|\/qmp/.test(path),
      }).catch(() => undefined); // evidence is best effort: the failure itself is what counts
    }
    process.stderr.write(`evidence of "${name}" is in ${target}\n--- output of roost up ---\n${this.#output.slice(-5_000)}\n`);
  }

  /** What on this machine names a sandbox of this platform that has ended: must be nothing, after every test. */
  async leftovers(): Promise<string[]> {
    const known: string[] = [];
    for await (const { id } of this.client.sandboxes.list()) known.push(id);
    const resources = await listOwnedResources(this.folder);
    return resources.filter((line) => /\bi[0-9a-z]{20}\b/.test(line) && !known.some((id) => line.includes(id)));
  }

  /** Ends everything and says what of it is left on the machine; must be nothing. */
  async stop(): Promise<string[]> {
    if (this.#process === undefined) await this.up();
    for await (const { id } of this.client.sandboxes.list()) await this.client.sandboxes.delete(id);
    await this.down();
    return listOwnedResources(this.folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const left = await this.stop();
    await rm(this.folder, { recursive: true, force: true });
    if (left.length > 0) throw new Error(`left behind on the machine: ${left.join("; ")}`);
  }
}
