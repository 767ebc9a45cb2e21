import { readFileSync, statSync } from "node:fs";

import { Code, ConnectError } from "@connectrpc/connect";

import { isBase64 } from "../base64-text.ts";
import { parseGroup, parsePasswd, type GroupEntry, type PasswdEntry } from "./account-files.ts";

/** A user of the guest, with everything a process of theirs needs. */
export interface GuestUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
  /** all group ids, the primary one first; at most `groupsMax` */
  readonly groups: readonly number[];
}

/** NGROUPS of old kernels; more supplementary groups than this are dropped. */
const groupsMax = 256;

/** Longest account file in `bytes`; a longer one is taken for damaged and not read. */
const accountFileBytesMax = 1024 * 1024;

/** The user of a root file system that has no passwd file: nothing else can be run there. */
const rootWithoutPasswd: PasswdEntry = { name: "root", uid: 0, gid: 0, home: "/root", shell: "/bin/sh" };

interface AccountFile<Entry> {
  readonly stamp: string;
  readonly entries: readonly Entry[];
}

/**
 * Users and groups as the guest's own /etc says, read again when a file changes.
 *
 * No getpwnam: the agent has its own libc, and that may not match the guest's name service. An unknown name is
 * always an error: it never becomes another user, least of all root.
 */
export class Users {
  readonly #etcFolder: string;
  readonly #defaultName: () => string | undefined;
  #passwd: AccountFile<PasswdEntry> | undefined;
  #group: AccountFile<GroupEntry> | undefined;

  /** `defaultName` answers the default user that `/init` set, if any. */
  constructor(options: { readonly etcFolder?: string; readonly defaultName: () => string | undefined }) {
    this.#etcFolder = options.etcFolder ?? "/etc";
    this.#defaultName = options.defaultName;
  }

  /** The user a request acts as: HTTP Basic user name (empty password), else the default. Throws `unauthenticated`. */
  userOf(headers: Headers): GuestUser {
    return this.acting(basicUserName(headers.get("authorization")));
  }

  /** The named user, or the default one for undefined and "": `/init`'s, else `user` where it exists, else root. */
  acting(name: string | undefined): GuestUser {
    if (name !== undefined && name !== "") return this.#mustFind(name);
    const fromInit = this.#defaultName();
    if (fromInit !== undefined && fromInit !== "") return this.#mustFind(fromInit, "invalid default user");
    return this.byName("user") ?? this.#mustFind("root");
  }

  byName(name: string): GuestUser | undefined {
    const entry = this.#passwdEntries().find((candidate) => candidate.name === name);
    return entry === undefined ? undefined : { ...entry, groups: this.#groupsOf(entry) };
  }

  /** Name of a user id, or the number itself as text where it has none. */
  userName(uid: number): string {
    return this.#passwdEntries().find((entry) => entry.uid === uid)?.name ?? String(uid);
  }

  /** Name of a group id, or the number itself as text where it has none. */
  groupName(gid: number): string {
    return this.#groupEntries().find((entry) => entry.gid === gid)?.name ?? String(gid);
  }

  #mustFind(name: string, complaint = "invalid username"): GuestUser {
    const user = this.byName(name);
    if (user === undefined) throw new ConnectError(`${complaint}: '${printable(name)}'`, Code.Unauthenticated);
    return user;
  }

  #groupsOf(entry: PasswdEntry): number[] {
    const groups = new Set([entry.gid]);
    for (const group of this.#groupEntries()) if (group.members.includes(entry.name)) groups.add(group.gid);
    return [...groups].slice(0, groupsMax);
  }

  #passwdEntries(): readonly PasswdEntry[] {
    this.#passwd = refresh(this.#passwd, `${this.#etcFolder}/passwd`, parsePasswd);
    return this.#passwd.stamp === "absent" ? [rootWithoutPasswd] : this.#passwd.entries;
  }

  #groupEntries(): readonly GroupEntry[] {
    this.#group = refresh(this.#group, `${this.#etcFolder}/group`, parseGroup);
    return this.#group.entries;
  }
}

/** One stat(2) when nothing changed: cheap enough for each request. Editors replace the file, so its inode counts too. */
function refresh<Entry>(known: AccountFile<Entry> | undefined, path: string, parse: (text: string) => Entry[]): AccountFile<Entry> {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  if (stat === undefined) return { stamp: "absent", entries: [] };
  if (!stat.isFile() || stat.size > accountFileBytesMax) return { stamp: "unreadable", entries: [] };
  const stamp = `${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`;
  return known?.stamp === stamp ? known : { stamp, entries: parse(readFileSync(path, "utf8")) };
}

/** User name of an HTTP Basic header; undefined for no header and for other schemes, which are not ours to judge. */
export function basicUserName(header: string | null): string | undefined {
  if (header === null) return undefined;
  const trimmed = header.trim();
  const space = trimmed.indexOf(" ");
  const scheme = space < 0 ? trimmed : trimmed.slice(0, space);
  if (scheme.toLowerCase() !== "basic") return undefined;
  const encoded = space < 0 ? "" : trimmed.slice(space).trim();
  const decoded = isBase64(encoded, "any") ? Buffer.from(encoded, "base64").toString("utf8") : "";
  const colon = decoded.indexOf(":");
  if (colon < 0) throw new ConnectError("the Authorization header is not valid HTTP Basic", Code.Unauthenticated);
  return decoded.slice(0, colon);
}

function printable(name: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what is taken out
  return name.slice(0, 64).replaceAll(/[\u0000-\u001f\u007f]/g, "?");
}
