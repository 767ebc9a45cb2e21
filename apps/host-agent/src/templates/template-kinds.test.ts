import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { newSandboxId, newToken } from "@roost/contract";
import { must, poll } from "@roost/kit";
import { expect, test } from "vitest";

import { layersMax } from "../memory/manifest.ts";
import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost, type WireSpec } from "../testing/fake-host.ts";

const stepName = (index: number) => `step-${String(index).padStart(40, "0")}`;
const buildName = `build-${"b".repeat(32)}`;
const defaults = {
  user: "builder",
  workdir: "/srv/app",
  envs: { A: "template", B: "template" },
  startCommand: "serve",
  readyCommand: "true",
};
/** What a guest is told of them; `envVars` with the sandbox's own above. */
const told = { defaultUser: "builder", defaultWorkdir: "/srv/app" };

const guestOf = (host: FakeHost, id: string) => must(host.guests.get(id), "the guest of a sandbox that runs");
const lastInit = (host: FakeHost, id: string) => must(guestOf(host, id).inits.at(-1), "an /init").body;

async function running(host: FakeHost, given: Partial<WireSpec> = {}): Promise<string> {
  const spec = aSpec(given);
  await host.client.createSandbox({ spec });
  return spec.sandboxId;
}

const sizeless = { vcpus: 0, memoryMib: 0 };

test("a template's defaults go wherever its sandboxes go; their own environment lies above and stays theirs", async () => {
  await using host = await FakeHost.start();
  const source = await running(host);
  expect(lastInit(host, source)).toMatchObject({ defaultUser: "", defaultWorkdir: "", envVars: {} });
  const { template } = await host.client.createTemplate({ sandboxId: source, name: "mine", defaults });
  expect(template).toMatchObject({ kind: "snapshot", defaults });

  const sandboxId = await running(host, { template: "mine", ...sizeless, envs: { B: "own", C: "own" } });
  const both = { ...told, envVars: { A: "template", B: "own", C: "own" } };
  expect(lastInit(host, sandboxId)).toMatchObject(both);
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.spec).toMatchObject({ defaults, envs: { B: "own", C: "own" } });

  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  expect(lastInit(host, sandboxId)).toMatchObject(both);
  const { generation } = await host.client.checkpointSandbox({ sandboxId });
  await host.client.rollbackSandbox({ sandboxId, generation: generation?.number ?? 0 });
  expect(lastInit(host, sandboxId)).toMatchObject(both);
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId, memory: false });
  expect(lastInit(host, sandboxId)).toMatchObject(both);
  await host.endAgent();
  await host.startAgent();
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.spec).toMatchObject({ defaults });

  const child = { sandboxId: newSandboxId(), accessToken: newToken(), envs: { C: "child" } };
  await host.client.forkSandbox({ sandboxId, children: [child] });
  expect(lastInit(host, child.sandboxId)).toMatchObject({ ...told, envVars: { A: "template", B: "own", C: "child" } });

  // A template of it has the defaults, and not what was its own
  await host.client.createTemplate({ sandboxId: child.sandboxId, name: "second" });
  const grandchild = await running(host, { template: "second", ...sizeless });
  expect(lastInit(host, grandchild)).toMatchObject({ ...told, envVars: defaults.envs });
  // A sandbox may be asked for with others
  const other = await running(host, { template: "second", ...sizeless, defaults: { user: "root" } });
  expect(lastInit(host, other)).toMatchObject({ defaultUser: "root", defaultWorkdir: "", envVars: {} });
});

test("a VM that waited is told its template's defaults", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "mine=1" } });
  const source = await running(host);
  await host.client.createTemplate({ sandboxId: source, name: "mine", defaults });
  const sandboxId = await poll({ what: "a VM that waited", timeoutMs: 30_000 }, async () => {
    const spec = aSpec({ template: "mine", ...sizeless });
    const { sandbox } = await host.client.createSandbox({ spec });
    return sandbox?.startPath === "pool" ? spec.sandboxId : undefined;
  });
  expect(lastInit(host, sandboxId)).toMatchObject({ ...told, envVars: defaults.envs });
});

test("what cannot be is refused before anything is done", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const refused = async (given: Record<string, unknown>) => failureOf(host.client.createTemplate({ sandboxId, name: "x", ...given }));
  for (const given of [
    { kind: "image", name: `image-${"0".repeat(24)}` },
    { kind: "step", memory: false },
    { kind: "step", name: stepName(1) },
    { kind: "build" },
    { name: stepName(1) },
    { name: buildName },
    { name: `image-${"0".repeat(24)}` },
    { defaults: { user: "x".repeat(33) } },
    { defaults: { envs: { "A=B": "" } } },
  ]) {
    expect(await refused(given), JSON.stringify(given)).toMatchObject({ code: "request_invalid" });
  }
  expect((await host.client.listTemplates({})).templates.map(({ name }) => name)).toEqual(["base"]);
  const many = (from: number) => Object.fromEntries(Array.from({ length: 200 }, (_, index) => [`V${from + index}`, ""]));
  await host.client.createTemplate({ sandboxId, name: "x", defaults: { envs: many(0) } });
  const failure = await failureOf(host.client.createSandbox({ spec: aSpec({ template: "x", ...sizeless, envs: many(100) }) }));
  expect(failure).toMatchObject({ code: "request_invalid", message: expect.stringContaining("300 variables") as string });
});

test("a build takes over the template of another: both are of the same files, and each outlives the other", async () => {
  await using host = await FakeHost.start();
  const source = await running(host);
  await host.client.createTemplate({ sandboxId: source, name: buildName, kind: "build", defaults });
  const name = `build-${"c".repeat(32)}`;
  const { template } = await host.client.copyTemplate({ from: buildName, name });
  expect(template).toMatchObject({ name, kind: "build", hasMemory: true, defaults });
  expect((await host.client.copyTemplate({ from: buildName, name })).template?.timeCreatedMs).toBe(template?.timeCreatedMs);
  await host.client.deleteTemplate({ name: buildName });
  const sandboxId = await running(host, { template: name, ...sizeless });
  expect((await host.client.getSandbox({ sandboxId })).sandbox).toMatchObject({ startPath: "restore" });
  expect(lastInit(host, sandboxId)).toMatchObject({ ...told, envVars: defaults.envs });
  await host.endAgent();
  await host.startAgent();
  expect((await host.client.listTemplates({})).templates.map((each) => each.name)).toEqual(["base", name]);

  await host.client.createTemplate({ sandboxId: source, name: "mine" });
  expect(await failureOf(host.client.copyTemplate({ from: "mine", name: buildName }))).toMatchObject({ code: "request_invalid" });
  expect(await failureOf(host.client.copyTemplate({ from: name, name: "other" }))).toMatchObject({ code: "request_invalid" });
  expect(await failureOf(host.client.copyTemplate({ from: buildName, name }))).toMatchObject({ code: "snapshot_not_found" });
});

test("steps are disks of a synced guest; one that is there is not made again, unless it is to be replaced", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const step = { sandboxId, name: stepName(1), kind: "step", memory: false };
  const { template } = await host.client.createTemplate(step);
  expect(template).toMatchObject({ kind: "step", hasMemory: false, memoryMib: 0 });
  expect(guestOf(host, sandboxId).prepares).toEqual([{ sync: true }]);
  const again = await host.client.createTemplate(step);
  expect(again.template?.digest).toBe(template?.digest);
  expect(guestOf(host, sandboxId).prepares).toHaveLength(1);
  const { template: replaced } = await host.client.createTemplate({ ...step, replace: true });
  expect(replaced?.digest).not.toBe(template?.digest);

  // Two builds make the same one at the same time
  const other = await running(host);
  const both = await Promise.all(
    [sandboxId, other].map(async (id) => host.client.createTemplate({ ...step, name: stepName(2), sandboxId: id })),
  );
  expect(new Set(both.map((answer) => answer.template?.digest)).size).toBe(1);

  // They boot, with any size; nobody hears of them, and they can be removed while they are used
  const spec = aSpec({ template: stepName(2), vcpus: 2, memoryMib: 300 });
  expect((await host.client.createSandbox({ spec })).sandbox).toMatchObject({ startPath: "boot", spec: { vcpus: 2, memoryMib: 300 } });
  const failure = await failureOf(host.client.createSandbox({ spec: aSpec({ template: "unknown" }) }));
  expect(failure).toMatchObject({ code: "template_not_found" });
  expect(failure.message).not.toContain("step-");
  await host.client.deleteTemplate({ name: stepName(2) });
  await host.client.pauseSandbox({ sandboxId: spec.sandboxId });
  await host.client.resumeSandbox({ sandboxId: spec.sandboxId });
});

test("a step that was removed, or is damaged, is not found: a build begins from an earlier one", async () => {
  await using host = await FakeHost.start({ settings: { buildCacheMib: "0" } });
  const sandboxId = await running(host);
  await host.client.createTemplate({ sandboxId, name: stepName(1), kind: "step", memory: false });
  const layers = join(host.folder, "state", "templates", stepName(1), "disk");
  for (const layer of await readdir(layers)) await rm(join(layers, layer));
  const spec = () => aSpec({ template: stepName(1) });
  for (const _ of ["damaged", "removed"]) {
    expect(await failureOf(host.client.createSandbox({ spec: spec() }))).toMatchObject({ code: "template_not_found" });
  }
  expect((await host.client.listTemplates({})).templates.map(({ name }) => name)).toEqual(["base"]);
});

test("sixty steps in a row, in one sandbox", async () => {
  await using host = await FakeHost.start({ settings: { layersMax: 8 } });
  const sandboxId = await running(host);
  for (let index = 0; index < 60; index += 1) {
    await host.client.createTemplate({ sandboxId, name: stepName(index), kind: "step", memory: false });
    expect(host.driver.layersOf(sandboxId).length).toBeLessThan(layersMax / 2);
  }
  for (const index of [0, 30, 59]) await running(host, { template: stepName(index) });
});

test("sixty steps in a row, each in a sandbox of its own from the one before", async () => {
  await using host = await FakeHost.start({ settings: { layersMax: 8 } });
  let template = "base";
  for (let index = 0; index < 60; index += 1) {
    const sandboxId = await running(host, { template });
    expect(host.driver.layersOf(sandboxId).length).toBeLessThan(layersMax / 2);
    template = stepName(index);
    await host.client.createTemplate({ sandboxId, name: template, kind: "step", memory: false });
    await host.client.destroySandbox({ sandboxId });
  }
});

test("the guest of a build's result is warm, synced, and afterwards who it was", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const guest = guestOf(host, sandboxId);
  guest.knowledge = { server: "runs" };
  const { template } = await host.client.createTemplate({ sandboxId, name: buildName, kind: "build", defaults });
  expect(template).toMatchObject({ kind: "build", hasMemory: true, defaults });
  expect(guest.prepares).toEqual([{ warmUp: "template" }, { sync: true }]);
  expect(guest.inits).toHaveLength(2);
  expect(guest.inits[1]?.body.sandboxId).toBe(sandboxId);
  const spec = aSpec({ template: buildName, templateName: "server:v1", ...sizeless });
  expect((await host.client.createSandbox({ spec })).sandbox).toMatchObject({ startPath: "restore", spec: { defaults } });
  expect(lastInit(host, spec.sandboxId).templateId).toBe("server:v1");
  const failure = await failureOf(host.client.createSandbox({ spec: aSpec({ ...spec, sandboxId: newSandboxId(), memoryMib: 300 }) }));
  expect(failure).toMatchObject({ code: "template_size_fixed", message: expect.stringContaining("'server:v1'") as string });
  expect(guestOf(host, spec.sandboxId).knowledge).toEqual({ server: "runs" });
  await host.client.deleteTemplate({ name: buildName });
});

test("a guest that cannot sync is not made a template of; one that cannot be warmed up is", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const guest = guestOf(host, sandboxId);
  guest.prepareStatus = 500;
  const build = { sandboxId, name: buildName, kind: "build" };
  expect(await failureOf(host.client.createTemplate(build))).toMatchObject({ code: "guest_error" });
  guest.prepareStatus = 204;
  guest.refusesWarmUp = true;
  expect((await host.client.createTemplate(build)).template).toMatchObject({ hasMemory: true });
});

test("memory that does not fit is made anew, but not of a template with a start command: its sandboxes boot and are told", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "none" } });
  const sandboxId = await running(host);
  await host.client.createTemplate({ sandboxId, name: "plain", defaults: { user: "builder" } });
  await host.client.createTemplate({ sandboxId, name: buildName, kind: "build", defaults });
  host.driver.fingerprintChanges = { vmmVersion: "fake 2" };
  const start = async (template: string) => {
    const spec = aSpec({ template, ...sizeless });
    const { sandbox } = await host.client.createSandbox({ spec });
    await host.client.destroySandbox({ sandboxId: spec.sandboxId });
    return sandbox;
  };
  const events: { kind: string; message: string }[] = [];
  const watching = new AbortController();
  const watched = (async () => {
    for await (const { event } of host.client.watchSandboxes({}, { signal: watching.signal })) {
      if (event.case === "happened") events.push({ kind: event.value.kind, message: event.value.message });
    }
  })().catch(() => undefined);

  expect(await start("plain")).toMatchObject({ startPath: "boot" });
  await poll({ what: "new memory", timeoutMs: 30_000 }, async () => ((await start("plain"))?.startPath === "restore" ? true : undefined));
  for (const _ of [1, 2, 3]) {
    const sandbox = await start(buildName);
    expect(sandbox).toMatchObject({ startPath: "boot", spec: { defaults } });
    expect(sandbox?.notice).toContain("vmmVersion");
  }
  const stale = await poll({ what: "the event", timeoutMs: 30_000 }, () => events.find(({ kind }) => kind === "template.stale"));
  expect(stale.message).toContain("start command");
  expect(events.filter(({ kind }) => kind === "template.stale")).toHaveLength(1);
  expect((await host.client.getTemplate({ name: buildName })).template?.hasMemory).toBe(true);
  watching.abort();
  await watched;
});
