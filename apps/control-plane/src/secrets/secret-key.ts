import { randomBytes } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { OptionError, writeFileDurably } from "@roost/kit";

const keyBytes = 32;
const secretKeyPattern = /^[0-9a-f]{64}$/;

/**
 * The installation's secret key. Where the database is in the state folder the key is there, too, made when it is first needed; a database server is shared
 * by several control planes and backed up by others, so then the operator gives the key.
 */
export async function readSecretKey(options: {
  readonly secretKey?: string | undefined;
  readonly databaseUrl?: string | undefined;
  readonly dir: string;
}): Promise<string> {
  if (options.secretKey !== undefined) return options.secretKey;
  if (options.databaseUrl !== undefined) {
    throw new OptionError(
      "ROOST_SECRET_KEY is required with ROOST_DATABASE_URL: 64 hex digits, the same for every control plane on that database, for example from `openssl rand -hex 32`",
    );
  }
  const path = join(options.dir, "secret-key");
  const present = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (present !== undefined) {
    if (!secretKeyPattern.test(present.trim()))
      throw new OptionError(`${path} does not have the secret key (64 hex digits) in it; put back the one that was there`);
    return present.trim();
  }
  const made = randomBytes(keyBytes).toString("hex");
  await mkdir(options.dir, { recursive: true });
  await writeFileDurably(path, `${made}\n`, { mode: 0o600 });
  return made;
}
