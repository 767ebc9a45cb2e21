import { memoryMibDefault, vcpusDefault } from "@roost/contract";

import type { BuildRow } from "../templates/build-store.ts";
import type { BuiltTemplate } from "../templates/built-templates.ts";
import type { NewestBuild } from "../db/builds.ts";
import { statuses, viewBuild } from "./builds.ts";
import type { OwnTemplate } from "./own-template.ts";
import { envdVersion } from "./views.ts";

/** Templates in E2B's form. Nobody counts how often they are used. */
const neverUsed = { lastSpawnedAt: null, spawnCount: 0 };
/** What is said where nothing is known */
const noBuildId = "00000000-0000-0000-0000-000000000000";

/** A base template or snapshot. */
function viewOwnIdentity(template: OwnTemplate) {
  const [alias = template.name] = template.name.split(":", 1);
  const time = template.timeCreated.toISOString();
  return {
    templateID: template.name,
    public: false,
    aliases: [alias],
    names: [template.name],
    createdAt: time,
    updatedAt: time,
    ...neverUsed,
  };
}

function viewOwnSizes(template: OwnTemplate) {
  return {
    cpuCount: template.vcpus ?? vcpusDefault,
    memoryMB: template.memoryMib ?? memoryMibDefault,
    diskSizeMB: template.diskSizeMib,
    envdVersion,
  };
}

export function viewOwn(template: OwnTemplate) {
  return {
    ...viewOwnIdentity(template),
    ...viewOwnSizes(template),
    buildID: buildIdOf(template),
    buildStatus: "ready",
    buildCount: 1,
    createdBy: null,
  };
}

export function viewOwnWithBuilds(template: OwnTemplate) {
  const time = template.timeCreated.toISOString();
  const build = {
    buildID: buildIdOf(template),
    status: "ready",
    createdAt: time,
    updatedAt: time,
    finishedAt: time,
    ...viewOwnSizes(template),
  };
  return { ...viewOwnIdentity(template), builds: [build] };
}

/** Clients want a UUID; a template is what its digest says, so its digits are taken. */
export function buildIdOf(template: OwnTemplate): string {
  const digits = template.digest
    .replace(/^[^:]*:/, "")
    .slice(0, 32)
    .padEnd(32, "0");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function viewBuiltIdentity({ row, name }: BuiltTemplate) {
  return {
    templateID: row.id,
    public: row.is_public,
    aliases: [row.name],
    names: [name],
    createdAt: row.time_created.toISOString(),
    updatedAt: row.time_updated.toISOString(),
    ...neverUsed,
  };
}

/** A built template: as its default build is, or else its newest. */
export function viewBuilt(template: BuiltTemplate, newest: NewestBuild | undefined) {
  const build = template.build ?? newest?.build;
  return {
    ...viewBuiltIdentity(template),
    cpuCount: build?.vcpus ?? vcpusDefault,
    memoryMB: build?.memory_mib ?? memoryMibDefault,
    diskSizeMB: 0,
    envdVersion,
    buildID: build?.id ?? noBuildId,
    buildStatus: build === undefined ? "waiting" : statuses[build.state],
    buildCount: newest?.count ?? 0,
    createdBy: null,
  };
}

export function viewBuiltWithBuilds(template: BuiltTemplate, builds: readonly BuildRow[]) {
  return { ...viewBuiltIdentity(template), builds: builds.map((build) => ({ ...viewBuild(build), envdVersion })) };
}
