import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import { sessionTokenPattern } from "@roost/contract";
import { writeFileDurably } from "@roost/kit";
import { z } from "zod";

import { CliError } from "./failure.ts";
import type { Io } from "./io.ts";

/** Who signed in, and where. */
const keptSessionSchema = z.object({
  formatVersion: z.literal(1),
  url: z.url({ protocol: /^https?$/ }),
  token: z.string().regex(sessionTokenPattern),
  email: z.string(),
});
export type KeptSession = Omit<z.infer<typeof keptSessionSchema>, "formatVersion">;

/** Where this user's settings of this program are. */
export function configFolder(environment: Io["environment"]): string {
  const { XDG_CONFIG_HOME: config = "", HOME: home = "" } = environment;
  if (config.startsWith("/")) return join(config, "roost");
  if (home.startsWith("/")) return join(home, ".config", "roost");
  throw new CliError("there is no folder to keep a session in", { hint: "set HOME or XDG_CONFIG_HOME to an absolute path" });
}

/** In the user's own configuration folder. */
export const sessionPath = (environment: Io["environment"]) => join(configFolder(environment), "session.json");

/** Undefined when nobody signed in. */
export async function readSession(environment: Io["environment"]): Promise<KeptSession | undefined> {
  const { XDG_CONFIG_HOME: config = "", HOME: home = "" } = environment;
  if (!config.startsWith("/") && !home.startsWith("/")) return undefined;
  const path = sessionPath(environment);
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw new CliError(`cannot read ${path}: ${error.message}`, { cause: error });
  });
  if (text === undefined) return undefined;
  try {
    return keptSessionSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new CliError(`${path} is not what \`roost login\` of this version writes`, {
      hint: "sign in again: `roost login`",
      cause: error,
    });
  }
}

/** Readable by its owner only. */
export async function writeSession(environment: Io["environment"], session: KeptSession): Promise<void> {
  await mkdir(configFolder(environment), { recursive: true, mode: 0o700 });
  await writeFileDurably(sessionPath(environment), `${JSON.stringify({ formatVersion: 1, ...session }, undefined, 2)}\n`, { mode: 0o600 });
}

export async function removeSession(environment: Io["environment"]): Promise<void> {
  await rm(sessionPath(environment), { force: true });
}

/** Whether a token for one may be sent to the other. */
export function isSamePlatform(one: string, other: string): boolean {
  return new URL(one).origin === new URL(other).origin;
}
