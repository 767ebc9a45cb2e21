import { isHostTemplateName, PlatformError } from "@roost/contract";

import { descriptionAgeMs, type HostDescription, type HostLink } from "./host-link.ts";
import type { HostTemplate } from "./observed.ts";

export interface Placement {
  readonly host: HostLink;
  readonly template: HostTemplate;
}

/** The hosts there are, and which of them gets a new sandbox. */
export class Hosts {
  readonly links: readonly HostLink[];

  constructor(links: readonly HostLink[]) {
    this.links = links;
  }

  get(hostId: string): HostLink {
    const host = this.links.find((link) => link.id === hostId);
    if (host === undefined) {
      throw new PlatformError("host_unreachable", "the sandbox's host is not part of this installation now", { detail: `host ${hostId}` });
    }
    return host;
  }

  /** Hosts that answered, with what they said. */
  async describe(ageMs = descriptionAgeMs): Promise<{ readonly host: HostLink; readonly description: HostDescription }[]> {
    const asked = await Promise.allSettled(this.links.map(async (host) => ({ host, description: await host.describe(ageMs) })));
    return asked.filter((outcome) => outcome.status === "fulfilled").map((outcome) => outcome.value);
  }

  /** The same as `place`, by what is known already of hosts or was just said; undefined when that is not enough. */
  async find(templateName: string): Promise<Placement | undefined> {
    return choose(await this.describe(), templateName);
  }

  /**
   * The reachable host with the template and the most memory free. The host itself decides whether there is room. `shownName`: as users know a template of a build.
   */
  async place(templateName: string, shownName = templateName): Promise<Placement> {
    const known = choose(await this.describe(), templateName) ?? choose(await this.describe(0), templateName);
    if (known !== undefined) return known;
    const described = await this.describe();
    if (described.length === 0) {
      throw new PlatformError("host_unreachable", "no host can be reached right now", { retryAfterSec: 5 });
    }
    if (shownName !== templateName) {
      throw new PlatformError("host_unreachable", `no host that can be reached right now has the template "${shownName}"`, {
        retryAfterSec: 5,
      });
    }
    const all = described.flatMap(({ description }) => description.templates.map((template) => template.name));
    const names = [...new Set(all)].filter((name) => !isHostTemplateName(name)).sort();
    const there = names.length === 0 ? "there are none yet" : `there are: ${names.join(", ")}`;
    throw new PlatformError("template_not_found", `there is no template "${templateName}"; ${there}`);
  }

  /** A host that has the template for certain, because somebody put it there. */
  async placeOn(hostId: string, templateName: string): Promise<Placement> {
    const host = this.get(hostId);
    const withTemplate = async (ageMs: number) =>
      (await host.describe(ageMs)).templates.find((candidate) => candidate.name === templateName);
    const template = (await withTemplate(descriptionAgeMs)) ?? (await withTemplate(0));
    if (template === undefined) {
      throw new PlatformError("template_not_found", `the host does not have the template "${templateName}" any more`, {
        detail: `host ${hostId}`,
      });
    }
    return { host, template };
  }
}

function choose(
  described: readonly { readonly host: HostLink; readonly description: HostDescription }[],
  templateName: string,
): Placement | undefined {
  let best: (Placement & { readonly free: number }) | undefined;
  for (const { host, description } of described) {
    const template = description.templates.find((candidate) => candidate.name === templateName);
    const free = description.info.memory_free_mb;
    if (template !== undefined && (best === undefined || free > best.free)) best = { host, template, free };
  }
  return best;
}
