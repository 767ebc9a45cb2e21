import type { Hosts } from "../../hosts/hosts.ts";
import type { HostLink } from "../../hosts/host-link.ts";
import { nowhere } from "./build-source.ts";

export interface HostWishes {
  /** Whose build it is: it is sent files and credentials, so other teams' hosts are out of the question */
  readonly teamId: string;
  /** Templates that it must have */
  readonly templates: readonly string[];
  /** Hosts that probably have what can be taken from the cache, the best first */
  readonly preferred: readonly (string | null)[];
  /** How many steps it has in its cache, where that can be known before anything is fetched */
  readonly cachedSteps: (host: HostLink) => Promise<number>;
}

/** The host of a build: one that takes sandboxes of its team and has what the build begins from; of these the one with most in its cache, then one that built this before, then the one with the most memory free. */
export async function chooseHost(hosts: Hosts, { teamId, templates, preferred, cachedSteps }: HostWishes): Promise<HostLink> {
  const described = await hosts.describeTakers(teamId, 0);
  const able = described.filter(({ description }) =>
    templates.every((name) => description.templates.some((template) => template.name === name)),
  );
  const [only] = able;
  if (only === undefined) throw nowhere(templates, described.length > 0);
  if (able.length === 1) return only.host;
  const rated = await Promise.all(
    able.map(async ({ host, description }) => {
      const place = preferred.indexOf(host.id);
      return { host, cached: await cachedSteps(host), place: place < 0 ? preferred.length : place, free: description.info.memory_free_mb };
    }),
  );
  rated.sort((a, b) => b.cached - a.cached || a.place - b.place || b.free - a.free);
  return rated[0]?.host ?? only.host;
}
