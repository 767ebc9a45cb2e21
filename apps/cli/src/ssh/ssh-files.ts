import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, realpath, rm } from "node:fs/promises";
import { join } from "node:path";

import { writeFileDurably } from "@roost/kit";

import { CliError } from "../failure.ts";
import type { Io } from "../io.ts";
import { configFolder } from "../session-file.ts";

/** The name under which host keys are known: all sandboxes are served by this program, so all have its key. */
const hostKeyAlias = "roost-sandbox";
/** Ends the names that SSH programs use: `ID.roost` */
export const hostSuffix = ".roost";
/** Stands for the user that a sandbox has by default, which its template knows. */
export const defaultUser = "default";

export interface SshFiles {
  readonly hostKeyPath: string;
  readonly knownHostsPath: string;
  readonly configPath: string;
}

function filesOf(environment: Io["environment"]): SshFiles & { readonly folder: string } {
  const folder = join(configFolder(environment), "ssh");
  return { folder, hostKeyPath: join(folder, "host_key"), knownHostsPath: join(folder, "known_hosts"), configPath: join(folder, "config") };
}

/** The key with which this program shows SSH clients that it is the one they started. Made once. */
export async function readHostKey(environment: Io["environment"]): Promise<string> {
  const { folder, hostKeyPath, knownHostsPath } = filesOf(environment);
  const { parseKey } = (await import("ssh2")).default.utils;
  const key = (await readIfThere(hostKeyPath)) ?? (await makeHostKey(folder, hostKeyPath));
  const parsed = parseKey(key);
  if (parsed instanceof Error)
    throw new CliError(`${hostKeyPath} is no SSH key: ${parsed.message}`, { hint: "remove it; a new one is made" });
  // What clients know of it follows from it, so that the two always belong together.
  const known = `${hostKeyAlias} ${parsed.type} ${parsed.getPublicSSH().toString("base64")}\n`;
  if ((await readIfThere(knownHostsPath)) !== known) await writeFileDurably(knownHostsPath, known, { mode: 0o600 });
  return key;
}

/** Of several that make one at once the first wins, and all use its. */
async function makeHostKey(folder: string, path: string): Promise<string> {
  const { generateKeyPairSync } = (await import("ssh2")).default.utils;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const draft = join(folder, `host_key.${randomBytes(4).toString("hex")}`);
  await writeFileDurably(draft, generateKeyPairSync("ed25519").private, { mode: 0o600 });
  try {
    await link(draft, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(draft, { force: true });
  }
  return readFile(path, "utf8");
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new CliError(`cannot read ${path}: ${error.message}`, { cause: error });
  });
}

export interface ConfigOptions {
  /** What ssh starts to reach a sandbox, up to the sandbox's name */
  readonly command: readonly string[];
  /** `*.roost`, or that of one sandbox */
  readonly host: string;
}

/** What SSH clients read about sandboxes; see ssh_config(5). */
export function sshConfig(environment: Io["environment"], { command, host }: ConfigOptions): string {
  const { knownHostsPath } = filesOf(environment);
  const proxyCommand = command.map((word) => shellQuoted(word).replaceAll("%", "%%")).join(" ");
  return `Host ${host}
  ProxyCommand ${proxyCommand} %h
  User ${defaultUser}
  HostKeyAlias ${hostKeyAlias}
  UserKnownHostsFile "${knownHostsPath}"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PreferredAuthentications none
  ForwardAgent no
  ForwardX11 no
`;
}

/** Makes key and files, and answers where they are. */
export async function writeSshFiles(environment: Io["environment"], options: ConfigOptions): Promise<SshFiles> {
  await readHostKey(environment);
  const files = filesOf(environment);
  const text = sshConfig(environment, options);
  if ((await readIfThere(files.configPath)) !== text) await writeFileDurably(files.configPath, text, { mode: 0o600 });
  return files;
}

/** Has the user's own SSH configuration include ours; answers whether that was new. */
export async function includeInUserConfig(environment: Io["environment"], configPath: string): Promise<{ path: string; isNew: boolean }> {
  const { HOME: home = "" } = environment;
  if (!home.startsWith("/")) throw new CliError("there is no home folder to install into", { hint: "set HOME to an absolute path" });
  const named = join(home, ".ssh", "config");
  const path = await realpath(named).catch(() => named); // it may be a link into somebody's kept settings
  const line = `Include "${configPath}"`;
  const present = (await readIfThere(path)) ?? "";
  if (present.split("\n").some((known) => known.trim() === line)) return { path, isNew: false };
  await mkdir(join(home, ".ssh"), { recursive: true, mode: 0o700 });
  // First: behind a Host it would be about that host only.
  await writeFileDurably(path, `${line}\n${present === "" ? "" : `\n${present}`}`, { mode: 0o600 });
  return { path, isNew: true };
}

function shellQuoted(word: string): string {
  return /^[\w@+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
