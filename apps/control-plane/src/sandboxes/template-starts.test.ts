import { create } from "@bufbuild/protobuf";
import { createSandboxBodySchema, PlatformError, recipeSchema, type TemplateDefaults } from "@roost/contract";
import { TemplateSchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { findSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { listTokenHolders } from "../db/token-holders.ts";
import type { BuildRow } from "../templates/build-store.ts";
import { Builds } from "../templates/builds.ts";
import { BuiltTemplates } from "../templates/built-templates.ts";
import { hostTemplateOf } from "../templates/names.ts";
import { TemplateLookup } from "../templates/template-lookup.ts";
import { makeReady } from "../testing/ended-build.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { ServiceWorld } from "../testing/service-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Sandboxes } from "./sandboxes.ts";

/** Sandboxes from what builds made, and those that builds work in. */

let database: Database;
let world: ServiceWorld;
let templates: BuiltTemplates;
let lookup: TemplateLookup;
let builds: Builds;
let sandboxes: Sandboxes;
let started: { readonly row: SandboxRow; readonly defaults: TemplateDefaults }[];
let startCommand: (signal: AbortSignal) => Promise<void>;

beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  world = await ServiceWorld.start(database);
  await database.db.deleteFrom("built_template").execute();
  const { db } = database;
  templates = new BuiltTemplates({ db, hosts: world.hosts, log: silentLogger, onRemoval: () => undefined, onCancel: () => undefined });
  lookup = new TemplateLookup({ db, hosts: world.hosts, templates });
  builds = new Builds({ db, templates, log: silentLogger, claimedBy: "test", poke: () => undefined });
  started = [];
  startCommand = async () => undefined;
  sandboxes = new Sandboxes({
    database,
    hosts: world.hosts,
    log: silentLogger,
    onEnded: () => undefined,
    resolveTemplate: (teamId, name) => lookup.resolve(teamId, name),
    startCommand: async (row, defaults, signal) => {
      started.push({ row, defaults });
      await startCommand(signal);
    },
  });
});
afterEach(async () => world[Symbol.asyncDispose]());

const start = async (template: string, signal = new AbortController().signal, more: object = {}) =>
  sandboxes.create(firstTeam, createSandboxBodySchema.parse({ template, ...more }), signal);

async function build(name: string, more: Parameters<typeof makeReady>[2] = {}): Promise<BuildRow> {
  const { build: requested } = await builds.request({ teamId: firstTeam, name, tags: [], vcpus: 2, memoryMib: 1024 });
  await builds.start(own(requested.id), recipeSchema.parse({ from: { template: "base" } }));
  const ready = await makeReady(database.db, world.host, more);
  world.link.forgetDescription();
  return ready;
}

const defaults = { user: "app", workdir: "/srv", envs: { A: "1" }, startCommand: "serve", readyCommand: "true" };
const booting = { hasMemory: false, vcpus: 0, memoryMib: 0, defaults };

test("a sandbox of a built template is known by the name that its creator gave", async () => {
  const made = await build("one:v1");
  const row = await start("ONE:V1");
  expect(row).toMatchObject({ template: "one:v1", template_build_id: made.id, vcpus: 2, memory_mib: 1024, state: "running" });
  expect(world.host.sandboxes.get(row.id)?.spec?.template).toBe(hostTemplateOf(made.id));
  world.host.images.pause(row.id); // its host speaks of it under its own name
  await world.isState(row.id, "paused");
  expect(await sandboxes.get(own(row.id))).toMatchObject({ template: "one:v1", template_build_id: made.id });
});

test("children of a fork came from the same build", async () => {
  const made = await build("one");
  const parent = await start("one");
  const [child] = await sandboxes.fork(own(parent.id), { count: 1 }, new AbortController().signal);
  expect(child).toMatchObject({ row: { template: "one", template_build_id: made.id, for_build_id: null } });
});

test("a build that is deleted while a sandbox is created from it does not get one", async () => {
  await build("one");
  const resolved = await lookup.resolve(firstTeam, "one");
  const late = new Sandboxes({
    database,
    hosts: world.hosts,
    log: silentLogger,
    onEnded: () => undefined,
    resolveTemplate: async () => {
      await templates.delete(firstTeam, "one");
      return resolved;
    },
  });
  const creating = late.create(firstTeam, createSandboxBodySchema.parse({ template: "one" }), new AbortController().signal);
  await expect(creating).rejects.toMatchObject({ code: "template_not_found" });
  expect(await database.db.selectFrom("sandbox").select("id").execute()).toEqual([]);
  expect(world.host.sandboxes.size).toBe(0);
});

test("a template whose host is away is not one that does not exist", async () => {
  const made = await build("one");
  world.host.images.templates.delete(hostTemplateOf(made.id));
  world.link.forgetDescription();
  await expect(start("one")).rejects.toMatchObject({ code: "host_unreachable", message: expect.stringContaining('"one"') });
  await expect(start("two")).rejects.toMatchObject({ code: "template_not_found" });
});

test("what is to run in a sandbox that booted is started before its create answers; from memory it runs already", async () => {
  await build("cold", booting);
  await build("warm", { defaults });
  const cold = await start("cold");
  expect(started).toMatchObject([{ row: { id: cold.id, start_path: "boot" }, defaults }]);
  await start("warm");
  await build("plain", { ...booting, defaults: { ...defaults, startCommand: "" } });
  await start("plain");
  expect(started).toHaveLength(1);
});

test("a sandbox in which it does not get ready is ended", async () => {
  await build("cold", booting);
  startCommand = async () => Promise.reject(new PlatformError("build_failed", "the start command ended"));
  await expect(start("cold")).rejects.toMatchObject({ code: "build_failed" });
  const [row] = await database.db.selectFrom("sandbox").selectAll().execute();
  expect(row).toMatchObject({ state: "stopped" });
  expect(world.host.sandboxes.size).toBe(0);
});

test("a caller who goes away while it is awaited leaves nothing", async () => {
  await build("cold", booting);
  const abort = new AbortController();
  startCommand = async (signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(new Error("gone")));
      abort.abort();
    });
  await expect(start("cold", abort.signal)).rejects.toThrow("gone");
  await expect.poll(() => world.host.sandboxes.size, { timeout: 30_000 }).toBe(0);
});

const buildId = "0a1b2c3d-0000-4000-8000-0123456789ab";

test("a sandbox that works for a build is nobody else's: not listed, not found, not deleted", async () => {
  world.host.images.templates.set("step-x", create(TemplateSchema, { name: "step-x", kind: "step", defaults }));
  const spec = { teamId: firstTeam, buildId, hostId: "host-1", hostTemplate: "step-x", vcpus: 1, memoryMib: 512 };
  const row = await sandboxes.createForBuild(spec, new AbortController().signal);
  expect(row).toMatchObject({ state: "running", for_build_id: buildId, timeout_sec: 0, template_build_id: null });
  expect(started).toEqual([]);
  const { id } = row;
  await expect(sandboxes.get(own(id))).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(sandboxes.delete(own(id))).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(sandboxes.kill(own(id))).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(sandboxes.lifecycle.pause(own(id), { memory: true })).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(sandboxes.lifecycle.usable(own(id))).rejects.toMatchObject({ code: "sandbox_not_found" });
  expect((await sandboxes.list(firstTeam, { limit: 10 })).sandboxes).toEqual([]);
  expect((await sandboxes.listPresent({ teamId: firstTeam, order: "asc", limit: 10 })).sandboxes).toEqual([]);
  expect(await sandboxes.countRunning({ teamId: firstTeam })).toBe(0);
  expect(await listTokenHolders(database.db, 10)).toEqual([]);
  expect(await findSandbox(database.db, own(id))).toMatchObject({ state: "running", time_delete_requested: null });
  await sandboxes.deleteForBuild(id);
  expect(world.host.sandboxes.size).toBe(0);
  await sandboxes.deleteForBuild(id);
});

test("a build's sandbox is made on the host that it names, or not at all", async () => {
  const spec = { teamId: firstTeam, buildId, hostId: "host-1", hostTemplate: "step-none", vcpus: 1, memoryMib: 512 };
  await expect(sandboxes.createForBuild(spec, new AbortController().signal)).rejects.toMatchObject({ code: "template_not_found" });
});
