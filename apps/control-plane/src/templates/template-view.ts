import { type Build, type BuildLogLine, type Template, type TemplateDefaults, type TemplateDetail } from "@roost/contract";

import type { BuildLogTable } from "../db/schema.ts";
import type { SnapshotRow } from "../db/snapshots.ts";
import type { HostTemplate } from "../hosts/observed.ts";
import type { BuildRow } from "./build-store.ts";
import { isCancelling } from "./builds.ts";
import type { BuiltTemplate } from "./built-templates.ts";

/** Templates, builds and their logs as users of the native API see them. */

export function viewBuild(row: BuildRow, templateName: string): Build {
  return {
    id: row.id,
    template: templateName,
    template_id: row.template_id,
    state: row.state,
    is_cancelling: isCancelling(row),
    tags: row.tags,
    vcpus: row.vcpus,
    memory_mb: row.memory_mib,
    step_count: row.step_count,
    steps_done: row.steps_done,
    steps_cached: row.steps_cached,
    size_bytes: row.size_bytes,
    failure: row.failure,
    created_at: row.time_created.toISOString(),
    started_at: row.time_started?.toISOString() ?? null,
    ended_at: row.time_ended?.toISOString() ?? null,
  };
}

export function viewLogLine({ number, time_created: time, level, step, message }: BuildLogTable): BuildLogLine {
  return { number, time: time.toISOString(), level, step, message };
}

/** A base template. */
export function viewHostTemplate(template: HostTemplate): Template {
  return {
    name: template.name,
    kind: "base",
    id: null,
    build_id: null,
    tags: [],
    is_public: false,
    digest: template.digest,
    disk_mb: template.disk_size_mib,
    has_memory: template.has_memory,
    vcpus: template.vcpus === 0 ? null : template.vcpus,
    memory_mb: template.memory_mib === 0 ? null : template.memory_mib,
  };
}

export function viewSnapshotTemplate(row: SnapshotRow): Template {
  return {
    name: row.name,
    kind: "snapshot",
    id: null,
    build_id: null,
    tags: [],
    is_public: false,
    digest: row.digest,
    disk_mb: row.disk_size_mib,
    has_memory: row.has_memory,
    vcpus: row.vcpus === 0 ? null : row.vcpus,
    memory_mb: row.memory_mib === 0 ? null : row.memory_mib,
  };
}

/** `onHost`: what a host has of the build that its name means; undefined: nothing, or no host can be reached. */
export function viewBuiltTemplate({ row, name, tags, build }: BuiltTemplate, onHost: HostTemplate | undefined): Template {
  return {
    name,
    kind: "built",
    id: row.id,
    build_id: build?.id ?? null,
    tags: tags.map(({ tag }) => tag),
    is_public: row.is_public,
    digest: onHost?.digest ?? "",
    disk_mb: onHost?.disk_size_mib ?? 0,
    has_memory: onHost?.has_memory ?? false,
    vcpus: build?.vcpus ?? null,
    memory_mb: build?.memory_mib ?? null,
  };
}

export function viewHostTemplateDetail(template: HostTemplate): TemplateDetail {
  const time = template.time_created.toISOString();
  return { ...viewHostTemplate(template), created_at: time, updated_at: time, tag_builds: [], defaults: viewDefaults(template.defaults) };
}

/** `onHost`: what a host has of it; undefined: nothing, or no host can be reached. */
export function viewSnapshotTemplateDetail(row: SnapshotRow, onHost: HostTemplate | undefined): TemplateDetail {
  const time = row.time_created.toISOString();
  return { ...viewSnapshotTemplate(row), created_at: time, updated_at: time, tag_builds: [], defaults: viewDefaults(onHost?.defaults) };
}

export function viewBuiltTemplateDetail(template: BuiltTemplate, onHost: HostTemplate | undefined): TemplateDetail {
  const { row, tags } = template;
  return {
    ...viewBuiltTemplate(template, onHost),
    created_at: row.time_created.toISOString(),
    updated_at: row.time_updated.toISOString(),
    tag_builds: tags.map(({ tag, build_id: buildId, time_created: time }) => ({ tag, build_id: buildId, created_at: time.toISOString() })),
    defaults: viewDefaults(onHost?.defaults),
  };
}

function viewDefaults(defaults: TemplateDefaults | undefined): TemplateDetail["defaults"] {
  return {
    user: defaults?.user ?? "",
    workdir: defaults?.workdir ?? "",
    envs: defaults?.envs ?? {},
    start_command: defaults?.startCommand ?? "",
    ready_command: defaults?.readyCommand ?? "",
  };
}
