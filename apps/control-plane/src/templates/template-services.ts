import { randomUUID } from "node:crypto";
import { join } from "node:path";

import { MiB, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { BuildFiles } from "./build-files.ts";
import { Builds } from "./builds.ts";
import { BuiltTemplates } from "./built-templates.ts";
import { TemplateLookup } from "./template-lookup.ts";
import { TemplateUpkeep } from "./template-upkeep.ts";

export interface TemplateServicesDependencies {
  readonly db: Db;
  readonly hosts: Hosts;
  /** State folder of the control plane */
  readonly dir: string;
  readonly buildFilesMib: number;
  /** There is a build to be taken on, or to be cancelled */
  readonly pokeBuilds: () => void;
  readonly log: Logger;
}

export interface TemplateServices {
  readonly templates: BuiltTemplates;
  readonly lookup: TemplateLookup;
  readonly builds: Builds;
  readonly files: BuildFiles;
  readonly upkeep: TemplateUpkeep;
  /** What this process claims builds as */
  readonly claimedBy: string;
}

/** All there is of templates but the running of builds. */
export function createTemplateServices({ db, hosts, dir, buildFilesMib, pokeBuilds, log }: TemplateServicesDependencies): TemplateServices {
  const claimedBy = randomUUID();
  const files = new BuildFiles({ folder: join(dir, "build-files"), bytesMax: buildFilesMib * MiB, log });
  const upkeep = new TemplateUpkeep({ db, hosts, files, log });
  const templates = new BuiltTemplates({ db, hosts, log, onRemoval: () => upkeep.poke(), onCancel: pokeBuilds });
  const builds = new Builds({ db, templates, log, claimedBy, poke: pokeBuilds });
  const lookup = new TemplateLookup({ db, hosts, templates });
  return { templates, lookup, builds, files, upkeep, claimedBy };
}
