import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { pipeline } from "node:stream/promises";

import {
  newSandboxId,
  sandboxEgressBodySchema,
  showEgress,
  type CreateSandboxBody,
  type FileEntry,
  type Sandbox,
  type SandboxEgressBody,
  type Snapshot,
  type Template,
} from "@roost/contract";

import { FakeError, type FakeCall, type FakeHandlers } from "./fake-call.ts";
import { LocalBuilds } from "./local-builds.ts";
import { LocalChannels } from "./local-channels.ts";
import { LocalBooks } from "./local-books.ts";
import { LocalHosts } from "./local-hosts.ts";
import { LocalKeys } from "./local-keys.ts";
import { LocalProcesses } from "./local-processes.ts";
import { joinLocalPort } from "./local-tunnels.ts";
import { LocalSaving, type SavableSandbox } from "./local-saving.ts";

interface LocalSandbox extends SavableSandbox {
  network: SandboxEgressBody;
  record: Sandbox;
  /** Stands for the user's home. */
  readonly home: string;
  readonly processes: LocalProcesses;
}

/** Sandboxes that are folders of this machine. Nothing isolates them: only for tests that know what they run. */
export class LocalSandboxes {
  readonly #all = new Map<string, LocalSandbox>();
  readonly saving = new LocalSaving<LocalSandbox>(this);
  readonly builds = new LocalBuilds();
  readonly keys = new LocalKeys();
  readonly hosts = new LocalHosts();
  readonly books = new LocalBooks();
  readonly channels = new LocalChannels();

  async create(body: Partial<CreateSandboxBody> = {}): Promise<LocalSandbox> {
    const id = newSandboxId();
    const now = new Date().toISOString();
    const record: Sandbox = {
      id,
      state: "running",
      template: body.template ?? "base",
      vcpus: body.vcpus ?? 1,
      memory_mb: body.memory_mb ?? 512,
      disk_mb: 10_240,
      timeout_sec: body.timeout_sec ?? 0,
      checkpoint_interval_sec: body.checkpoint_interval_sec ?? 0,
      auto_resume: body.auto_resume ?? false,
      metadata: body.metadata ?? {},
      created_at: now,
      started_at: now,
      last_active_at: now,
      stopped_at: null,
      stop_reason: null,
      start_path: "restore",
      current_generation: null,
      has_memory: false,
      paused_at: null,
      expires_at: null,
      expiry_action: "delete",
      notice: null,
      failure_reason: null,
      host_state: "ready",
      vm_exit: null,
      versions: { kernel: "6.1.0-test" },
    };
    const home = await mkdtemp(join(tmpdir(), "roost-fake-"));
    const network = body.network ?? sandboxEgressBodySchema.parse({});
    const sandbox = { record, network, home, generations: [], processes: new LocalProcesses(home, body.envs ?? {}) };
    this.#all.set(id, sandbox);
    return sandbox;
  }

  get(id: string): LocalSandbox {
    const sandbox = this.#all.get(id);
    if (sandbox === undefined) throw new FakeError("sandbox_not_found", `there is no sandbox ${id}`);
    return sandbox;
  }

  /** Newest first. */
  list(): Sandbox[] {
    return [...this.#all.values()].map((sandbox) => sandbox.record).reverse();
  }

  async remove(id: string): Promise<void> {
    const sandbox = this.get(id);
    this.#all.delete(id);
    await sandbox.processes.endAll();
    await rm(sandbox.home, { recursive: true, force: true });
  }

  async removeAll(): Promise<void> {
    for (const id of this.#all.keys()) await this.remove(id);
  }
}

export function localHandlers(sandboxes: LocalSandboxes): FakeHandlers {
  const at = (call: { readonly parameters: Readonly<Record<string, string>> }) => sandboxes.get(call.parameters["id"] ?? "");
  const guestAt = (call: { readonly parameters: Readonly<Record<string, string>> }) => sandboxes.saving.usable(call.parameters["id"] ?? "");
  const bodyPath = (call: FakeCall) => pathIn(guestAt(call), (call.body as { path: string }).path);
  return {
    http: {
      createSandbox: async (call) => (await sandboxes.create(call.body as CreateSandboxBody)).record,
      listSandboxes: (call) => listPage(sandboxes.list(), call.query),
      getSandbox: (call) => at(call).record,
      deleteSandbox: (call) => sandboxes.remove(call.parameters["id"] ?? ""),
      pingSandbox: (call) => at(call).record,
      setSandboxTimeout: (call) => {
        const sandbox = at(call);
        sandbox.record = { ...sandbox.record, timeout_sec: (call.body as { timeout_sec: number }).timeout_sec };
        return sandbox.record;
      },
      getNetwork: (call) => showEgress(at(call).network),
      setNetwork: (call) => {
        const sandbox = at(call);
        sandbox.network = call.body as SandboxEgressBody;
        return showEgress(sandbox.network);
      },
      getSandboxMetrics: (call) => ({
        sandbox_id: at(call).record.id,
        range: call.query.get("range") ?? "10m",
        memory_total_bytes: 512 * 1024 * 1024,
        disk_total_bytes: 10 * 1024 ** 3,
        points: [10, 20, 30].map((cpu, index) => ({
          timestamp_unix: 1_700_000_000 + index,
          cpu_pct: cpu,
          mem_bytes: 1e8,
          disk_bytes: 1e9,
        })),
      }),
      getSandboxLogs: (call) => {
        at(call);
        call.response.writeHead(200, { "content-type": "text/plain" }).end("booted\n");
      },
      exec: (call) => guestAt(call).processes.exec(at(call).record.id, call.body as never),
      listProcesses: (call) => ({ processes: guestAt(call).processes.list() }),
      signalProcess: (call) =>
        guestAt(call).processes.signal(call.parameters["selector"] ?? "", (call.query.get("signal") ?? "SIGKILL") as NodeJS.Signals),
      readFile: (call) => readFile(call, pathIn(guestAt(call), call.query.get("path") ?? "")),
      writeFile: async (call) => {
        const path = pathIn(guestAt(call), call.query.get("path") ?? "");
        await mkdir(dirname(path), { recursive: true });
        await pipeline(call.request, createWriteStream(path));
        return { entry: await entryOf(path) };
      },
      listFiles: async (call) => {
        const names = await readdir(bodyPath(call)).catch(notFound);
        return { entries: await Promise.all(names.map((name) => entryOf(join(bodyPath(call), name)))) };
      },
      statFile: async (call) => ({ entry: await entryOf(bodyPath(call)) }),
      makeFolder: async (call) => {
        await mkdir(bodyPath(call), { recursive: true });
        return { entry: await entryOf(bodyPath(call)) };
      },
      moveFile: async (call) => {
        const body = call.body as { source: string; destination: string };
        const destination = pathIn(guestAt(call), body.destination);
        await rename(pathIn(at(call), body.source), destination).catch(notFound);
        return { entry: await entryOf(destination) };
      },
      removeFile: (call) => rm(bodyPath(call), { recursive: true, force: true }),
      ...sandboxes.saving.handlers(),
      ...sandboxes.builds.handlers().http,
      ...sandboxes.keys.handlers(),
      ...sandboxes.hosts.handlers(),
      ...sandboxes.books.handlers(),
      ...sandboxes.channels.handlers(),
      // Nothing here takes so long that it would have to be asked after
      listOperations: () => ({ operations: [] }),
      getOperation: ({ parameters }) => {
        throw new FakeError("operation_not_found", `there is no operation ${parameters["operation"]}`);
      },
      listTemplates: () => ({
        templates: [baseTemplate, ...[...sandboxes.saving.snapshots.values()].map(templateOf), ...sandboxes.builds.templates()],
      }),
    },
    socket: {
      ...sandboxes.builds.handlers().socket,
      execStream: (call) => guestAt(call).processes.stream(call.socket),
      attachProcess: (call) => guestAt(call).processes.attach(call.socket, call.parameters["selector"] ?? ""),
      pty: (call) => guestAt(call).processes.terminal(call.socket),
      openTunnel: (call) => {
        guestAt(call);
        joinLocalPort(call.socket, Number(call.parameters["port"]));
      },
    },
  };
}

const notBuilt = { id: null, build_id: null, tags: [], is_public: false };

const baseTemplate: Template = {
  ...notBuilt,
  name: "base",
  kind: "base",
  digest: `sha256:${"0".repeat(64)}`,
  disk_mb: 10_240,
  has_memory: true,
  vcpus: null,
  memory_mb: null,
};

function templateOf({ name, digest, disk_mb, has_memory, vcpus, memory_mb }: Snapshot): Template {
  return { ...notBuilt, name, kind: "snapshot", digest, disk_mb, has_memory, vcpus, memory_mb };
}

function pathIn(sandbox: LocalSandbox, path: string): string {
  return isAbsolute(path) ? path : join(sandbox.home, path.replace(/^~\/?/, ""));
}

function notFound(error: unknown): never {
  throw new FakeError("file_not_found", error instanceof Error ? error.message : String(error));
}

async function entryOf(path: string): Promise<FileEntry> {
  const stats = await stat(path).catch(notFound);
  return {
    name: path.slice(path.lastIndexOf("/") + 1),
    path,
    type: stats.isDirectory() ? "directory" : "file",
    size: stats.size,
    mode: stats.mode & 0o7777,
    permissions: "-rw-r--r--",
    owner: "user",
    group: "user",
    modified_at: Math.trunc(stats.mtimeMs / 1000),
    symlink_target: null,
    metadata: {},
  };
}

async function readFile(call: FakeCall, path: string): Promise<void> {
  const { size } = await entryOf(path);
  const range = /^bytes=(\d+)-(\d*)$/.exec(call.request.headers.range ?? "");
  const start = Number(range?.[1] ?? 0);
  const end = range?.[2] === undefined || range[2] === "" ? size - 1 : Math.min(Number(range[2]), size - 1);
  call.response.writeHead(range === null ? 200 : 206, { "content-length": Math.max(0, end - start + 1) });
  await pipeline(createReadStream(path, { start, end: Math.max(end, start) }), call.response);
}

function listPage(all: Sandbox[], query: URLSearchParams) {
  const states = query.get("state")?.split(",");
  const labels = query.getAll("metadata").map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)] as const);
  const matching = all.filter(
    (sandbox) =>
      (states === undefined ? sandbox.state !== "stopped" : states.includes(sandbox.state)) &&
      labels.every(([key, value]) => sandbox.metadata[key] === value),
  );
  const start = Number(query.get("cursor") ?? 0);
  const end = start + Number(query.get("limit") ?? 100);
  return { sandboxes: matching.slice(start, end), next_cursor: end < matching.length ? String(end) : null };
}
