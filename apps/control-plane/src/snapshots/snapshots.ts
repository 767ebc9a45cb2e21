import { isHostTemplateName, PlatformError, type CreateSnapshotBody, type Snapshot } from "@roost/contract";
import type { Template } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import type { Logger } from "@roost/kit";

import { callTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { SandboxRecords } from "../sandboxes/records.ts";
import { requireNotEnded } from "../sandboxes/require-state.ts";

/** Time a host has to delete a snapshot in `ms`: gigabytes on a slow disk */
const deleteTimeoutMs = 60_000;

export interface SnapshotsDependencies {
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly log: Logger;
  /** Whether a snapshot of that name would be mistaken for a template that is built */
  readonly hasNameOfBuilt: (name: string) => Promise<boolean>;
}

/** A template as its host has it. */
export interface TemplateDetail {
  readonly name: string;
  readonly kind: "base" | "snapshot";
  readonly digest: string;
  readonly timeCreated: Date;
  /** null for a base template */
  readonly sourceSandboxId: string | null;
  /** null: any */
  readonly vcpus: number | null;
  readonly memoryMib: number | null;
  readonly diskSizeMib: number;
}

/** Templates that were made from sandboxes. They are their hosts': nothing of them is recorded here. */
export class Snapshots {
  readonly #deps: SnapshotsDependencies;

  constructor(deps: SnapshotsDependencies) {
    this.#deps = deps;
  }

  /** `replace`: a snapshot of that name gives way. */
  async create(body: CreateSnapshotBody, { replace }: { readonly replace: boolean } = { replace: false }): Promise<Snapshot> {
    const { hosts, records, log } = this.#deps;
    const row = await records.get(body.sandbox_id);
    requireNotEnded(row, { kind: "snapshot" });
    if (isHostTemplateName(body.name))
      throw new PlatformError("request_invalid", `name: "${body.name}" is not accepted: names like that are the platform's own`);
    if (await this.#deps.hasNameOfBuilt(body.name)) throw new PlatformError("snapshot_exists", nameTaken(body.name, "built template"));
    // A name means one thing on all hosts; of its own names the sandbox's host makes sure itself
    const taken = (await hosts.describe(0)).flatMap(({ host, description }) =>
      description.templates.filter((template) => template.name === body.name).map(({ kind }) => ({ host, kind })),
    );
    const refused = taken.find(({ kind }) => !replace || kind === "base");
    if (refused !== undefined)
      throw new PlatformError("snapshot_exists", nameTaken(body.name, refused.kind === "snapshot" ? "snapshot" : "base template"));
    const host = hosts.get(row.host_id);
    const { sandbox_id: sandboxId, name, memory } = body;
    const answer = await host.call(() => host.client.createTemplate({ sandboxId, name, memory, replace }, { timeoutMs: saveTimeoutMs }));
    host.forgetDescription();
    log.info({ sandboxId, template: name, hostId: host.id }, "snapshot created");
    for (const other of taken) if (other.host !== host) await this.#delete(name, other.host);
    await this.#refresh(sandboxId, host);
    return viewSnapshot(answer.template, host.id);
  }

  /** By name. A host that does not answer is left out, but not when none does. */
  async list(): Promise<Snapshot[]> {
    const found = (await this.#ask()).flatMap(({ host, templates }) =>
      templates.filter(isSnapshot).map((template) => viewSnapshot(template, host.id)),
    );
    return [...new Map(found.map((snapshot) => [snapshot.name, snapshot])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Base templates and snapshots, by name. */
  async templates(): Promise<TemplateDetail[]> {
    const found = (await this.#ask()).flatMap(({ templates }) => templates.map(detailOf));
    const users = found.filter((template) => !isHostTemplateName(template.name));
    return [...new Map(users.map((template) => [template.name, template])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async get(name: string): Promise<Snapshot> {
    const [first] = await this.#holders(name);
    if (first === undefined) throw notFound(name);
    return viewSnapshot(first.template, first.host.id);
  }

  async delete(name: string): Promise<void> {
    const holders = await this.#holders(name);
    if (holders.length === 0) throw notFound(name);
    for (const { host } of holders) await this.#delete(name, host);
  }

  async #delete(name: string, host: HostLink): Promise<void> {
    await host.call(() => host.client.deleteTemplate({ name }, { timeoutMs: deleteTimeoutMs }));
    host.forgetDescription();
    this.#deps.log.info({ template: name, hostId: host.id }, "snapshot deleted");
  }

  async #holders(name: string): Promise<{ readonly host: HostLink; readonly template: Template }[]> {
    const all = (await this.#ask()).flatMap(({ host, templates }) => templates.map((template) => ({ host, template })));
    const named = all.filter(({ template }) => template.name === name);
    if (isHostTemplateName(name)) throw notFound(name);
    if (named.length > 0 && !named.some(({ template }) => isSnapshot(template))) {
      throw new PlatformError("snapshot_not_found", `"${name}" is a base template, not a snapshot`);
    }
    return named.filter(({ template }) => isSnapshot(template));
  }

  async #ask(): Promise<{ readonly host: HostLink; readonly templates: readonly Template[] }[]> {
    const asked = await Promise.allSettled(
      this.#deps.hosts.links.map(async (host) => {
        const answer = await host.call(() => host.client.listTemplates({}, { timeoutMs: callTimeoutMs }));
        return { host, templates: answer.templates };
      }),
    );
    const answered = asked.filter((outcome) => outcome.status === "fulfilled").map((outcome) => outcome.value);
    if (answered.length === 0) throw new PlatformError("host_unreachable", "no host can be reached right now", { retryAfterSec: 5 });
    return answered;
  }

  /** The snapshot made a generation of its sandbox; the watch will say so too. */
  async #refresh(sandboxId: string, host: HostLink): Promise<void> {
    try {
      const answer = await host.client.getSandbox({ sandboxId }, { timeoutMs: callTimeoutMs });
      await this.#deps.records.observe(observedFrom(answer.sandbox, host.id));
    } catch (error) {
      this.#deps.log.debug({ err: error, sandboxId }, "the record follows with the watch");
    }
  }
}

function isSnapshot(template: Template): boolean {
  return template.kind === "snapshot";
}

function detailOf(template: Template): TemplateDetail {
  return {
    name: template.name,
    kind: isSnapshot(template) ? "snapshot" : "base",
    digest: template.digest,
    timeCreated: new Date(Number(template.timeCreatedMs)),
    sourceSandboxId: template.sourceSandboxId === "" ? null : template.sourceSandboxId,
    vcpus: template.vcpus === 0 ? null : template.vcpus,
    memoryMib: template.memoryMib === 0 ? null : template.memoryMib,
    diskSizeMib: template.diskSizeMib,
  };
}

function notFound(name: string): PlatformError {
  return new PlatformError("snapshot_not_found", `there is no snapshot "${name}"`);
}

function nameTaken(name: string, kind: "base template" | "snapshot" | "built template"): string {
  return kind === "snapshot"
    ? `there is a snapshot "${name}" already; take another name, or delete it first`
    : `"${name}" is the name of a ${kind}; take another`;
}

function viewSnapshot(template: Template | undefined, hostId: string): Snapshot {
  if (template === undefined || template.name === "") {
    throw new PlatformError("internal", "the host sent an answer that makes no sense", {
      detail: `host ${hostId} described a snapshot without a name`,
    });
  }
  return {
    name: template.name,
    created_at: new Date(Number(template.timeCreatedMs)).toISOString(),
    source_sandbox_id: template.sourceSandboxId === "" ? null : template.sourceSandboxId,
    has_memory: template.hasMemory,
    vcpus: template.vcpus === 0 ? null : template.vcpus,
    memory_mb: template.memoryMib === 0 ? null : template.memoryMib,
    disk_mb: template.diskSizeMib,
    size_bytes: Number(template.sizeBytes),
    digest: template.digest,
  };
}
