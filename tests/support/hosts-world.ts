import { randomBytes } from "node:crypto";
import { access, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { startPostgres } from "@roost/control-plane/testing/postgres";
import { Cleanup, must, poll, run } from "@roost/kit";
import { RoostClient } from "@roost/sdk";
import { listOwnedResources } from "@roost/testing";

import { findVmm } from "./find-vmm.ts";
import { ServerProcess } from "./server-process.ts";

/** Time a process may take to be ready in `ms`: the accelerator is probed, certificates are made, VMs adopted */
const readyTimeoutMs = 120_000;
/** First of the uids of the first host's VMMs: hosts on one machine that do not see each other's routes need ranges of their own */
const uidBase = 2_013_265_920;
const uidsPerHost = 65_536;
const hostPort = 7_072;
/** Of the links between the control plane and its hosts, a /31 each: nobody's on the internet */
const linkPrefix = "11.79.0";

function inheritedEnvironment(): NodeJS.ProcessEnv {
  const isOther = ([name]: [string, unknown]) => !/^(ROOST_(?!CACHE_DIR)|VITEST|NODE_ENV|FORCE_COLOR)/.test(name);
  return { ...Object.fromEntries(Object.entries(process.env).filter(isOther)), NO_COLOR: "1" };
}

/** Like `ROOST_HOST_LEASE_SEC`: what a test sets. */
export type WorldSettings = Readonly<Record<`ROOST_${string}`, string>>;

/** A machine with a host agent: a network namespace with a link to the control plane, and a state folder. */
export class WorldHost {
  readonly name: string;
  readonly folder: string;
  readonly address: string;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #uidBase: number;
  readonly #namespace: string;
  readonly #link: string;
  #process: ServerProcess | undefined;
  /** Its id, once it is registered */
  id = "";

  constructor(number: number, folder: string, settings: WorldSettings) {
    this.name = `host-${number}`;
    this.folder = join(folder, this.name);
    this.address = `${linkPrefix}.${2 * number + 1}`;
    this.#namespace = `roosthost${process.pid}-${number}`;
    this.#link = `rh${process.pid}-${number}`.slice(-15);
    this.#uidBase = uidBase + number * uidsPerHost;
    this.#environment = {
      ...inheritedEnvironment(),
      ROOST_DIR: this.folder,
      ROOST_POOL_SIZES: "none",
      ROOST_SLOT_POOL_SIZE: "1",
      ROOST_UID_BASE: String(this.#uidBase),
      ROOST_GUEST_DNS_SERVERS: "11.79.1.53",
      ...settings,
    };
  }

  /** Address of the control plane's end of its link */
  get controlPlaneAddress(): string {
    const last = Number(this.address.slice(linkPrefix.length + 1));
    return `${linkPrefix}.${last - 1}`;
  }

  get output(): string {
    return this.#process?.output ?? "";
  }

  async makeNetwork(): Promise<void> {
    await mkdir(this.folder, { recursive: true });
    await run(["ip", "netns", "add", this.#namespace]);
    await run(["ip", "-batch", "-"], {
      input: [
        `link add ${this.#link} type veth peer name up0 netns ${this.#namespace}`,
        `addr add ${this.controlPlaneAddress}/31 dev ${this.#link}`,
        `link set ${this.#link} up`,
      ].join("\n"),
    });
    await run(["ip", "-netns", this.#namespace, "-batch", "-"], {
      input: [
        "link set lo up",
        `addr add ${this.address}/31 dev up0`,
        "link set up0 up",
        `route add default via ${this.controlPlaneAddress}`,
      ].join("\n"),
    });
  }

  async removeNetwork(): Promise<void> {
    await run(["ip", "link", "del", this.#link]).catch(() => undefined); // gone with the namespace when set-up failed half-way
    await run(["ip", "netns", "del", this.#namespace]).catch(() => undefined); // the same
  }

  async cutLink(): Promise<void> {
    await run(["ip", "link", "set", this.#link, "down"]);
  }

  async mendLink(): Promise<void> {
    await run(["ip", "link", "set", this.#link, "up"]);
  }

  /** Starts its agent, to register with `token` when there is one; resolves when the control plane has answered it, unless that is away. */
  async start(
    given: {
      readonly token?: string;
      readonly controlPlane?: string;
      readonly isControlPlaneAway?: boolean;
      readonly settings?: WorldSettings;
    } = {},
  ): Promise<void> {
    const { token, controlPlane } = given;
    const registering =
      token === undefined
        ? []
        : ["--register", token, "--control-plane", must(controlPlane, "where to register"), "--address", `${this.address}:${hostPort}`];
    const started = new ServerProcess({
      args: ["host-agent", ...registering],
      env: { ...this.#environment, ...given.settings },
      namespace: this.#namespace,
    });
    this.#process = started;
    const word = given.isControlPlaneAway === true ? "the host agent listens for its control plane" : "the control plane knows this host";
    await poll({ what: `"${word}" of ${this.name}`, timeoutMs: readyTimeoutMs, intervalMs: 50 }, () => {
      started.check();
      return started.output.includes(word) ? true : undefined;
    });
    this.id = (JSON.parse(await readFile(join(this.folder, "host-identity.json"), "utf8")) as { hostId: string }).hostId;
  }

  /** As a power cut of the agent would: no signal handler runs, its VMs go on. */
  async killHard(): Promise<void> {
    await this.#process?.end("SIGKILL");
  }

  /** In order; its sandboxes go on. */
  async stop(): Promise<number | null | undefined> {
    return this.#process?.end("SIGTERM");
  }

  get isRunning(): boolean {
    return this.#process?.isRunning ?? false;
  }

  /** What its agent says of itself on its health socket. */
  async health(): Promise<Record<string, unknown>> {
    const socket = join(this.folder, "health.sock");
    return JSON.parse(await run(["curl", "--silent", "--unix-socket", socket, "http://localhost/health"])) as Record<string, unknown>;
  }

  /** Whether its folder has the sandbox, whatever anybody's records say. */
  async has(sandboxId: string): Promise<boolean> {
    return access(join(this.folder, "sandboxes", sandboxId, "sandbox.json")).then(
      () => true,
      () => false,
    );
  }

  async vmmOf(sandboxId: string): Promise<number | undefined> {
    return findVmm(this.folder, sandboxId);
  }

  /** Less routes: those that are seen from here are other installations', in the namespace of the test. */
  async leftovers(): Promise<string[]> {
    return (await listOwnedResources(this.folder, this.#uidBase)).filter((line) => !line.startsWith("route "));
  }
}

/** PostgreSQL, a control plane and hosts, all real, on one machine. */
export class HostsWorld implements AsyncDisposable {
  readonly hosts: readonly WorldHost[];
  readonly #folder: string;
  readonly #settings: WorldSettings;
  readonly #cleanup = new Cleanup();
  #databaseUrl = "";
  #hostsPort = 0;
  #controlPlane: ServerProcess | undefined;
  #client: RoostClient | undefined;
  readonly #secretKey = randomBytes(32).toString("hex");

  private constructor(folder: string, hostCount: number, settings: WorldSettings) {
    this.#folder = folder;
    this.#settings = settings;
    const hostSettings = Object.fromEntries(Object.entries(settings).filter(([name]) => !name.startsWith("ROOST_HOST_")));
    this.hosts = Array.from({ length: hostCount }, (_, number) => new WorldHost(number, folder, hostSettings));
  }

  /** Everything runs; no host is registered. Settings that begin with `ROOST_HOST_` are the control plane's, others everybody's. */
  static async start(hostCount: number, settings: WorldSettings = {}): Promise<HostsWorld> {
    const folder = await mkdtemp(join(tmpdir(), "roost-hosts-"));
    const world = new HostsWorld(folder, hostCount, settings);
    try {
      await world.#begin();
      return world;
    } catch (error) {
      process.stderr.write(`--- output of the control plane ---\n${world.#controlPlane?.output.slice(-5_000) ?? ""}\n`);
      await world.#cleanup.run();
      throw error;
    }
  }

  async #begin(): Promise<void> {
    this.#cleanup.defer("remove the folder", () => rm(this.#folder, { recursive: true, force: true }));
    const postgres = await startPostgres();
    this.#cleanup.defer("end PostgreSQL", () => postgres[Symbol.asyncDispose]());
    this.#databaseUrl = await postgres.createDatabase();
    for (const host of this.hosts) {
      this.#cleanup.defer(`remove the network of ${host.name}`, () => host.removeNetwork());
      await host.makeNetwork();
    }
    this.#hostsPort = await freePort();
    this.#cleanup.defer("end the control plane", () => this.stopControlPlane());
    await this.startControlPlane();
  }

  get client(): RoostClient {
    return must(this.#client, "a control plane that is up");
  }

  get controlPlaneOutput(): string {
    return this.#controlPlane?.output ?? "";
  }

  async startControlPlane(): Promise<void> {
    const dir = join(this.#folder, "control-plane");
    await rm(join(dir, "endpoint.json"), { force: true });
    const env = {
      ...inheritedEnvironment(),
      ROOST_DIR: dir,
      ROOST_PORT: "0",
      ROOST_HOSTS_PORT: String(this.#hostsPort),
      ROOST_DATABASE_URL: this.#databaseUrl,
      ROOST_SECRET_KEY: this.#secretKey,
      ...Object.fromEntries(Object.entries(this.#settings).filter(([name]) => name.startsWith("ROOST_HOST_"))),
    };
    const started = new ServerProcess({ args: ["control-plane"], env });
    this.#controlPlane = started;
    const { url } = await poll({ what: "the control plane's endpoint", timeoutMs: readyTimeoutMs, intervalMs: 50 }, async () => {
      if (!started.isRunning) return { url: undefined };
      return JSON.parse(await readFile(join(dir, "endpoint.json"), "utf8")) as { url: string };
    });
    if (url === undefined) started.check();
    const apiKey = (await readFile(join(dir, "api-key"), "utf8")).trim();
    this.#client = new RoostClient({ url: must(url, "it runs"), apiKey });
  }

  async killControlPlane(): Promise<void> {
    await this.#controlPlane?.end("SIGKILL");
  }

  async stopControlPlane(): Promise<number | null | undefined> {
    return this.#controlPlane?.end("SIGTERM");
  }

  /** Announces a host and starts its agent with the token that comes back. */
  async register(host: WorldHost): Promise<void> {
    const { registration } = await this.client.hosts.create({ name: host.name });
    await host.start({ token: registration.token, controlPlane: `https://${host.controlPlaneAddress}:${this.#hostsPort}` });
  }

  /** The host whose folder has the sandbox; throws when none has it, or several. */
  async hostOf(sandboxId: string): Promise<WorldHost> {
    const having = [];
    for (const host of this.hosts) if (await host.has(sandboxId)) having.push(host);
    const [only, ...more] = having;
    if (only === undefined || more.length > 0) {
      throw new Error(`sandbox ${sandboxId} is on ${having.length} hosts: ${having.map(({ name }) => name).join(", ")}`);
    }
    return only;
  }

  /** Logs of a failed test, kept beside the world's folder. */
  async saveEvidence(name: string): Promise<void> {
    const folder = await mkdtemp(join(tmpdir(), "roost-hosts-evidence-"));
    await writeFile(join(folder, "control-plane.log"), this.controlPlaneOutput);
    for (const host of this.hosts) await writeFile(join(folder, `${host.name}.log`), host.output);
    process.stderr.write(`evidence of "${name}" is in ${folder}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const left: string[] = [];
    try {
      for await (const { id } of this.client.sandboxes.list()) await this.client.sandboxes.delete(id);
    } finally {
      for (const host of this.hosts) {
        await host.stop();
        left.push(...(await host.leftovers()));
      }
      await this.#cleanup.run();
    }
    if (left.length > 0) await this.saveEvidence("what was left behind");
    if (left.length > 0) throw new Error(`left behind on the machine: ${left.join("; ")}`);
  }
}

/** One that nobody listens on now: a control plane that is started again has to have the same. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
