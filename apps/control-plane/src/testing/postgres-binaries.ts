import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** The folder of a PostgreSQL server's programs; undefined: there is none on this machine. */
export function findPostgres(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian).sort().reverse() : [];
  const folders = ["/usr/local/bin", "/usr/bin", ...versions.map((version) => join(debian, version, "bin"))];
  return folders.find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")));
}

/** Why there is no PostgreSQL to test with; undefined when there is. */
export function whyNoPostgres(): string | undefined {
  return findPostgres() === undefined ? "no PostgreSQL server is installed (Debian: postgresql)" : undefined;
}
