import { isHostTemplateName, PlatformError, type SeenHostState } from "@roost/contract";
import { assert, nap, second } from "@roost/kit";

import { descriptionAgeMs, type HostDescription, type HostLink } from "./host-link.ts";
import { isReachable, resumesSandboxes, seenState, takesSandboxes, unknownStanding, type HostStanding } from "./host-standing.ts";
import type { HostTemplate } from "./observed.ts";

export interface Placement {
  readonly host: HostLink;
  readonly template: HostTemplate;
}

/** Follows which hosts there are. */
export interface HostsListener {
  added(link: HostLink): void;
  removed(link: HostLink): void;
}

/** Time in `ms` that hosts have to describe themselves while others have: one that hangs is done without */
const slowestMs = 1 * second;

/** The hosts there are now, and which of them gets a new sandbox. They come and go while the control plane runs. */
export class Hosts {
  readonly #links = new Map<string, HostLink>();
  readonly #standings = new Map<string, HostStanding>();
  readonly #listeners = new Set<HostsListener>();
  readonly #now: () => Date;

  constructor(links: readonly HostLink[] = [], now: () => Date = () => new Date()) {
    this.#now = now;
    for (const link of links) this.add(link);
  }

  all(): readonly HostLink[] {
    return [...this.#links.values()];
  }

  /** Tells of the hosts there are, and from then on of those that come and go. */
  follow(listener: HostsListener): void {
    this.#listeners.add(listener);
    for (const link of this.#links.values()) listener.added(link);
  }

  add(link: HostLink): void {
    assert(!this.#links.has(link.id), `host ${link.id} is there once`);
    this.#links.set(link.id, link);
    for (const listener of this.#listeners) listener.added(link);
  }

  remove(hostId: string): void {
    const link = this.#links.get(hostId);
    this.#standings.delete(hostId);
    if (link === undefined) return;
    this.#links.delete(hostId);
    for (const listener of this.#listeners) listener.removed(link);
  }

  setStanding(hostId: string, standing: HostStanding): void {
    this.#standings.set(hostId, standing);
  }

  standing(hostId: string): HostStanding {
    return this.#standings.get(hostId) ?? unknownStanding;
  }

  /** As users see it who have sandboxes there. */
  seenState(hostId: string): SeenHostState {
    if (!this.#links.has(hostId) && !this.#standings.has(hostId)) return "unreachable";
    return seenState(this.standing(hostId), this.#now());
  }

  get(hostId: string): HostLink {
    const host = this.#links.get(hostId);
    if (host === undefined) {
      throw new PlatformError("host_unreachable", "the sandbox's host is not part of this installation now", { detail: `host ${hostId}` });
    }
    return host;
  }

  /** The host, to start a sandbox that is saved there. */
  getForResume(hostId: string): HostLink {
    const link = this.get(hostId);
    if (resumesSandboxes(this.standing(hostId))) return link;
    throw new PlatformError(
      "host_draining",
      "the sandbox's host is being drained, so the sandbox cannot be resumed right now; it stays saved",
      {
        detail: `host ${hostId}`,
        retryAfterSec: 60,
      },
    );
  }

  /** Hosts that answered, with what they said. Those that cannot be reached are not asked; those that hang are done without where others answered. */
  async describe(ageMs = descriptionAgeMs): Promise<{ readonly host: HostLink; readonly description: HostDescription }[]> {
    const now = this.#now();
    const answered: { readonly host: HostLink; readonly description: HostDescription }[] = [];
    const ask = async (host: HostLink) => {
      const description = await host.describe(ageMs).catch(() => undefined); // its watch says what is wrong with it
      if (description !== undefined) answered.push({ host, description });
    };
    const reachable = this.all().filter((host) => isReachable(this.standing(host.id), now));
    const prompt = reachable.filter((host) => !host.isHanging);
    const hanging = reachable.filter((host) => host.isHanging).map(ask);
    const all = Promise.all(prompt.map(ask));
    const slow = new AbortController();
    await Promise.race([all, nap(slowestMs, slow.signal)]);
    slow.abort();
    if (answered.length === 0) await Promise.all([all, ...hanging]);
    return [...answered];
  }

  /** The same as `placeBase`, by what is known already of hosts or was just said; undefined when that is not enough. */
  async findBase(templateName: string, teamId: string): Promise<readonly Placement[] | undefined> {
    return holders(await this.describeTakers(teamId), templateName, isBase);
  }

  /** The hosts that take a team's sandboxes and have a template that is the hosts' own, which everybody may use. At least one. */
  async placeBase(templateName: string, teamId: string): Promise<readonly Placement[]> {
    const known = (await this.findBase(templateName, teamId)) ?? holders(await this.describeTakers(teamId, 0), templateName, isBase);
    if (known !== undefined) return known;
    const described = (await this.describe()).filter(({ host }) => this.#isFor(host, teamId));
    if (described.length === 0) throw noHost();
    if (holders(described, templateName, isBase) !== undefined) {
      throw new PlatformError("capacity_exhausted", `no host with the template "${templateName}" takes new sandboxes right now`, {
        retryAfterSec: 30,
      });
    }
    const names = [...new Set(described.flatMap(({ description }) => description.templates.filter(isBase).map(({ name }) => name)))].sort();
    const there = names.length === 0 ? "there are none yet" : `hosts have: ${names.join(", ")}`;
    throw new PlatformError("template_not_found", `there is no template "${templateName}"; ${there}`);
  }

  /** The same for one that a team may use, as its record says. `shownName`: as users know it. */
  async place(templateName: string, shownName: string, teamId: string): Promise<readonly Placement[]> {
    const known = holders(await this.describeTakers(teamId), templateName) ?? holders(await this.describeTakers(teamId, 0), templateName);
    if (known !== undefined) return known;
    if ((await this.describe()).length === 0) throw noHost();
    throw new PlatformError("host_unreachable", `no host that can be reached right now has the template "${shownName}"`, {
      retryAfterSec: 5,
    });
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

  /**
   * Those that may get new sandboxes of a team. What another team's own hosts say does not count: it would decide what names of templates mean to this one, and where
   * its builds send their files.
   */
  async describeTakers(teamId: string, ageMs?: number): ReturnType<Hosts["describe"]> {
    const now = this.#now();
    return (await this.describe(ageMs)).filter(({ host }) => takesSandboxes(this.standing(host.id), now) && this.#isFor(host, teamId));
  }

  #isFor({ id }: HostLink, teamId: string): boolean {
    const ownerId = this.standing(id).teamId;
    return ownerId === null || ownerId === teamId;
  }
}

function isBase(template: HostTemplate): boolean {
  return template.kind === "base" && !isHostTemplateName(template.name);
}

function noHost(): PlatformError {
  return new PlatformError("host_unreachable", "no host can be reached right now", { retryAfterSec: 5 });
}

/** Undefined: none. */
function holders(
  described: readonly { readonly host: HostLink; readonly description: HostDescription }[],
  templateName: string,
  isRight: (template: HostTemplate) => boolean = () => true,
): readonly Placement[] | undefined {
  const found = described.flatMap(({ host, description }) => {
    const template = description.templates.find((candidate) => candidate.name === templateName && isRight(candidate));
    return template === undefined ? [] : [{ host, template }];
  });
  return found.length === 0 ? undefined : found;
}
