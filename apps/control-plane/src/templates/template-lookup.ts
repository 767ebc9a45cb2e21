import { isHostTemplateName } from "@roost/contract";

import type { Db } from "../db/database.ts";
import { findSnapshot } from "../db/snapshots.ts";
import { isOwnNamespace } from "../db/teams.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { ResolvedTemplate } from "../sandboxes/creates.ts";
import type { BuiltTemplates } from "./built-templates.ts";
import { splitNamespace } from "./names.ts";

export interface TemplateLookupDependencies {
  readonly db: Db;
  readonly hosts: Pick<Hosts, "findBase">;
  readonly templates: Pick<BuiltTemplates, "resolve">;
}

/** What names of templates mean to a team, whatever made what they name. */
export class TemplateLookup {
  readonly #deps: TemplateLookupDependencies;

  constructor(deps: TemplateLookupDependencies) {
    this.#deps = deps;
  }

  /**
   * A snapshot of the team's, a template that it built, or one that another team lets everybody use (`slug/name`). A base template is everybody's and
   * has no namespace, but a team that says its own means it, too. A namespace that is no team's is left out. Undefined: nothing of that name is there for it.
   */
  async resolve(teamId: string, text: string): Promise<ResolvedTemplate | undefined> {
    const own = await this.ownName(teamId, text);
    if (own !== undefined && !isHostTemplateName(own)) {
      const base = own === text ? undefined : await this.#deps.hosts.findBase(own, teamId);
      if (base !== undefined) return { hostTemplate: own, buildId: null, snapshotId: null, name: own };
      const snapshot = await findSnapshot(this.#deps.db, teamId, own);
      if (snapshot !== undefined) {
        return { hostTemplate: snapshot.host_template, buildId: null, snapshotId: snapshot.id, name: snapshot.name };
      }
    }
    const built = await this.#deps.templates.resolve(teamId, text);
    return built && { hostTemplate: built.hostTemplate, buildId: built.buildId, snapshotId: null, name: built.name };
  }

  /** A name without the team's own namespace; undefined when it is another team's. */
  async ownName(teamId: string, text: string): Promise<string | undefined> {
    const { namespace, name } = splitNamespace(text);
    return namespace === undefined || (await isOwnNamespace(this.#deps.db, teamId, namespace)) ? name : undefined;
  }
}
