import type { HostLink } from "./host-link.ts";
import type { Hosts } from "./hosts.ts";

/**
 * Does something for each host for as long as it is there, until `signal` aborts. Each host has loops of its own, which wait for nobody else's: one that
 * hangs stalls nothing but itself.
 */
export async function runPerHost(
  hosts: Hosts,
  signal: AbortSignal,
  work: (link: HostLink, signal: AbortSignal) => readonly Promise<void>[],
): Promise<void> {
  const running = new Set<Promise<void>>();
  const ends = new Map<HostLink, AbortController>();
  hosts.follow({
    added: (link) => {
      if (signal.aborted) return;
      const gone = new AbortController();
      ends.set(link, gone);
      for (const loop of work(link, AbortSignal.any([signal, gone.signal]))) {
        const ended = loop.finally(() => running.delete(ended));
        running.add(ended);
      }
    },
    removed: (link) => {
      ends.get(link)?.abort();
      ends.delete(link);
    },
  });
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  await Promise.all(running);
}
