import {
  decideHost,
  hostDeletionListMax,
  newId,
  PlatformError,
  type CreatedHost,
  type CreateHostBody,
  type DrainMode,
  type Host,
  type HostDeletion,
  type HostRequest,
  type HostToken,
  type UpdateHostBody,
} from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { Caller } from "../accounts/caller.ts";
import type { Audit, AuditEntry } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import {
  changeHost,
  findHost,
  hasHostName,
  insertHost,
  listHosts,
  listSandboxesOn,
  listTemplatesOnlyOn,
  moveHost,
  type HostRow,
} from "../db/hosts.ts";
import { findTeam } from "../db/teams.ts";
import { emit } from "../events/outbox.ts";
import { hostChanged, hostNameTaken, hostNotFound } from "./host-errors.ts";
import type { HostRemoval } from "./host-removal.ts";
import { viewHost } from "./host-view.ts";
import type { Registrations } from "./registrations.ts";

/** A write that another one overtook is tried again this often: operators are few */
const triesMax = 5;

export interface HostAdministrationDependencies {
  readonly db: Db;
  readonly audit: Audit;
  /** Undefined: there is no host port, so no host can register */
  readonly registrations: Registrations | undefined;
  readonly removal: HostRemoval;
  /** Called after a host was changed: what follows hosts should look at once. */
  readonly onChanged: () => void;
  readonly log: Logger;
  readonly now: () => Date;
}

/** What operators do with hosts. */
export class HostAdministration {
  readonly #deps: HostAdministrationDependencies;

  constructor(deps: HostAdministrationDependencies) {
    this.#deps = deps;
  }

  async list(): Promise<Host[]> {
    const now = this.#deps.now();
    return (await listHosts(this.#deps.db)).map((row) => viewHost(row, now));
  }

  async get(id: string): Promise<Host> {
    return this.#view(await this.#require(id));
  }

  async create(caller: Caller, body: CreateHostBody): Promise<CreatedHost> {
    const registrations = this.#requirePort();
    const created = await this.#deps.db.transaction().execute(async (transaction) => {
      await this.#requireTeam(transaction, body.team_id);
      const row = await insertHost(
        transaction,
        { id: newId("h"), name: body.name, tags: body.tags, teamId: body.team_id },
        this.#deps.now(),
      );
      if (row === undefined) throw hostNameTaken(body.name);
      const registration = await registrations.issueToken(transaction, row.id);
      await this.#record(transaction, caller, "host.create", row.id, { name: row.name });
      return { host: this.#view(row), registration };
    });
    this.#changed(created.host, caller, "a host was announced");
    return created;
  }

  async update(caller: Caller, id: string, body: UpdateHostBody): Promise<Host> {
    return this.#change(caller, id, "a host was changed", async (transaction, seen) => {
      if (body.team_id !== undefined) await this.#requireTeam(transaction, body.team_id);
      if (body.name !== undefined && (await hasHostName(transaction, body.name, id))) throw hostNameTaken(body.name);
      const row = await changeHost(transaction, seen, { name: body.name, tags: body.tags, teamId: body.team_id });
      if (row !== undefined) await this.#record(transaction, caller, "host.update", id, describeUpdate(body));
      return row;
    });
  }

  async createToken(caller: Caller, id: string): Promise<HostToken> {
    const registrations = this.#requirePort();
    const token = await this.#deps.db.transaction().execute(async (transaction) => {
      if ((await findHost(transaction, id)) === undefined) throw hostNotFound(id);
      this.#deps.removal.requireRemote(id, "cannot register: it has no certificate and needs none");
      const issued = await registrations.issueToken(transaction, id);
      await this.#record(transaction, caller, "host.update", id, { token: "issued" });
      return issued;
    });
    this.#deps.log.info({ hostId: id, actor: caller.actor.id }, "a registration token was issued");
    return token;
  }

  async cordon(caller: Caller, id: string): Promise<Host> {
    return this.#move(caller, id, "cordon", null);
  }

  async uncordon(caller: Caller, id: string): Promise<Host> {
    return this.#move(caller, id, "uncordon", null);
  }

  async drain(caller: Caller, id: string, mode: DrainMode): Promise<Host> {
    return this.#move(caller, id, "drain", mode);
  }

  /** What deleting the host would lose. */
  async previewDeletion(id: string): Promise<HostDeletion> {
    await this.#require(id);
    const { count, rows } = await listSandboxesOn(this.#deps.db, id, hostDeletionListMax);
    const templates = await listTemplatesOnlyOn(this.#deps.db, id);
    return { sandbox_count: count, sandboxes: rows, template_count: templates.length, templates: templates.slice(0, hostDeletionListMax) };
  }

  async delete(caller: Caller, id: string, options: { readonly force: boolean }): Promise<void> {
    const row = await this.#require(id);
    await this.#deps.removal.remove(caller, row, options);
    this.#deps.onChanged();
  }

  async #move(caller: Caller, id: string, request: Exclude<HostRequest, "register">, drainMode: DrainMode | null): Promise<Host> {
    return this.#change(caller, id, `a host was told: ${request}`, async (transaction, seen) => {
      const decision = decideHost(seen.state, request);
      if (decision.kind === "deny") {
        throw new PlatformError("host_wrong_state", `host ${id} has not registered yet, so there is nothing to ${request}`);
      }
      if (decision.kind === "ignore" || (request === "drain" && seen.drain_mode === drainMode)) return seen;
      const now = this.#deps.now();
      const row = await moveHost(transaction, seen, { state: decision.next, drainMode }, now);
      if (row === undefined) return undefined;
      if (request !== "drain") {
        const kind = request === "cordon" ? "host.cordoned" : "host.uncordoned";
        await emit(transaction, { kind, teamId: row.team_id, subject: { kind: "host", id }, actor: caller.actor, time: now });
      }
      await this.#record(transaction, caller, `host.${request}`, id, drainMode === null ? {} : { mode: drainMode });
      return row;
    });
  }

  /** Runs `act` on the host as it is; again when somebody else changed it meanwhile. */
  async #change(
    caller: Caller,
    id: string,
    what: string,
    act: (transaction: Db, seen: HostRow) => Promise<HostRow | undefined>,
  ): Promise<Host> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      const row = await this.#deps.db.transaction().execute(async (transaction) => {
        const seen = await findHost(transaction, id);
        if (seen === undefined) throw hostNotFound(id);
        return act(transaction, seen);
      });
      if (row !== undefined) return this.#changed(this.#view(row), caller, what);
    }
    throw hostChanged(id);
  }

  #changed(host: Host, caller: Caller, what: string): Host {
    this.#deps.log.info({ hostId: host.id, state: host.state, actor: caller.actor.id }, what);
    this.#deps.onChanged();
    return host;
  }

  async #record(db: Db, caller: Caller, action: AuditEntry["action"], id: string, detail: Readonly<Record<string, string>>): Promise<void> {
    await this.#deps.audit.record(db, caller, { action, resource: { kind: "host", id }, scope: "admin", detail });
  }

  async #require(id: string): Promise<HostRow> {
    const row = await findHost(this.#deps.db, id);
    if (row === undefined) throw hostNotFound(id);
    return row;
  }

  async #requireTeam(db: Db, teamId: string | null): Promise<void> {
    if (teamId === null || (await findTeam(db, teamId)) !== undefined) return;
    throw new PlatformError("team_not_found", `team_id: there is no team "${teamId}"`);
  }

  #requirePort(): Registrations {
    const { registrations } = this.#deps;
    if (registrations !== undefined) return registrations;
    throw new PlatformError(
      "feature_unsupported",
      "this control plane takes no further hosts: it has no host port; give it one with ROOST_HOSTS_PORT (docs/deploy.md)",
    );
  }

  #view(row: HostRow): Host {
    return viewHost(row, this.#deps.now());
  }
}

function describeUpdate(body: UpdateHostBody): Record<string, string> {
  return Object.fromEntries(
    Object.entries(body)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => [key, Array.isArray(value) ? value.join(",") : String(value)]),
  );
}
