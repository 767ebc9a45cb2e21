import { readFile } from "node:fs/promises";

/** Used when the host's own configuration names nothing a guest could reach. */
const publicResolvers = ["1.1.1.1", "8.8.8.8"] as const;

/** systemd-resolved's list of real servers comes first: /etc/resolv.conf then only names its loopback stub. */
const files = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"] as const;

/** More than three are ignored by libc (resolv.conf(5)). */
const resolverCountMax = 3;

/** IPv4 resolvers of this host that are not the host itself. */
export async function findResolvers(paths: readonly string[] = files): Promise<readonly string[]> {
  for (const path of paths) {
    const found = parseResolvers(await readFile(path, "utf8").catch(() => "")); // absent: look in the next one
    if (found.length > 0) return found;
  }
  return publicResolvers;
}

export function parseResolvers(text: string): string[] {
  const found = [...text.matchAll(/^\s*nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$/gm)].flatMap(([, address]) => address ?? []);
  return [...new Set(found)].filter((address) => !address.startsWith("127.") && address !== "0.0.0.0").slice(0, resolverCountMax);
}
