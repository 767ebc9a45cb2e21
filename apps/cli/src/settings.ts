import { join } from "node:path";
import { readFile } from "node:fs/promises";

import { teamIdPattern } from "@roost/contract";
import { defineOptions, type OptionValues } from "@roost/kit";
import { z } from "zod";

import { CliError } from "./failure.ts";

/** Settings of the client half of `roost`; the platform's own are in its option tables. */
export const clientOptions = defineOptions("ROOST_", {
  url: { schema: z.url({ protocol: /^https?$/, error: "must look like http://127.0.0.1:7070" }).optional(), desc: "Platform to talk to" },
  apiKey: { schema: z.string().optional(), desc: "API key of that platform; default: whoever signed in with `roost login`", secret: true },
  team: {
    schema: z.string().regex(teamIdPattern, "must be the id of a team, as `roost team ls` shows it").optional(),
    desc: "Team to act for, where somebody signed in; default: the one that `roost team switch` chose",
  },
  dir: {
    schema: z.string().startsWith("/", "must be an absolute path").default("/var/lib/roost"),
    desc: "State folder of the local platform",
  },
  debug: { schema: z.string().optional(), desc: "Any value: show stacks of errors" },
});
export type ClientSettings = OptionValues<typeof clientOptions.table>;

/** Written by a platform when it listens; removed when it ends in order. */
export const endpointSchema = z.object({
  formatVersion: z.literal(1),
  url: z.url(),
  /** Where TLS is served, if it is */
  tlsUrl: z.url().optional(),
  version: z.string(),
  pid: z.int().positive(),
  /** with the pid, the identity of the process */
  startTicks: z.string(),
  startedAt: z.iso.datetime(),
});
export type Endpoint = z.infer<typeof endpointSchema>;

export const endpointPath = (dir: string) => join(dir, "endpoint.json");
export const apiKeyPath = (dir: string) => join(dir, "api-key");
/** Certificate of the local authority that `--tls` makes */
export const authorityPath = (dir: string) => join(dir, "tls", "authority.pem");

/** What the local platform wrote about itself; undefined when there is none. */
export async function readEndpoint(dir: string): Promise<Endpoint | undefined> {
  const text = await readFile(endpointPath(dir), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw new CliError(`cannot read ${endpointPath(dir)}: ${error.message}`, { cause: error });
  });
  if (text === undefined) return undefined;
  try {
    return endpointSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new CliError(`${endpointPath(dir)} is not what a platform of this version writes`, {
      hint: "restart the platform: `roost down`, then `roost up`",
      cause: error,
    });
  }
}

export interface Access {
  readonly url: string;
  readonly apiKey: string;
}

/**
 * Where to send requests and with which key. Without settings it is the local platform. Its key is only ever sent to
 * its own address: a ROOST_URL that points elsewhere needs its own ROOST_API_KEY.
 */
export async function findAccess(settings: ClientSettings): Promise<Access> {
  const endpoint = settings.url !== undefined && settings.apiKey !== undefined ? undefined : await readEndpoint(settings.dir);
  const url = settings.url ?? endpoint?.url;
  if (url === undefined) {
    throw new CliError(`no platform runs on this machine (there is no ${endpointPath(settings.dir)})`, {
      hint: "start one with `roost up --detach`, or set ROOST_URL and ROOST_API_KEY to use another machine's",
    });
  }
  if (settings.apiKey !== undefined) return { url, apiKey: settings.apiKey };
  if (endpoint === undefined || new URL(endpoint.url).origin !== new URL(url).origin) {
    throw new CliError(`no API key for ${url}`, { hint: "set ROOST_API_KEY; the local platform's key is not sent to other addresses" });
  }
  return { url, apiKey: await readApiKey(settings.dir) };
}

/** The key of the local platform, without the line's end. */
export async function readApiKey(dir: string): Promise<string> {
  try {
    return (await readFile(apiKeyPath(dir), "utf8")).trim();
  } catch (error) {
    const isForbidden = (error as NodeJS.ErrnoException).code === "EACCES";
    throw new CliError(`cannot read the API key in ${apiKeyPath(dir)}: ${(error as Error).message}`, {
      hint: isForbidden ? "run as root, or set ROOST_API_KEY" : "set ROOST_API_KEY",
      cause: error,
    });
  }
}
