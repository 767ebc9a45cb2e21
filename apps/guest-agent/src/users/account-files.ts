/** Readers of passwd(5) and group(5). The guest's own files, written by the guest: lines that make no sense are skipped. */

export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Largest valid id: 2^32 - 1 means "no change" to setuid(2) and must never be taken for an id. */
const idMax = 2 ** 32 - 2;

export function parsePasswd(text: string): PasswdEntry[] {
  const entries: PasswdEntry[] = [];
  for (const line of text.split("\n")) {
    const [name, , uidText, gidText, , home, shell] = line.split(":");
    const uid = parseId(uidText);
    const gid = parseId(gidText);
    if (!name || name.startsWith("#") || uid === undefined || gid === undefined) continue;
    entries.push({ name, uid, gid, home: home?.startsWith("/") === true ? home : "/", shell: shell ? shell : "/bin/sh" });
  }
  return entries;
}

export function parseGroup(text: string): GroupEntry[] {
  const entries: GroupEntry[] = [];
  for (const line of text.split("\n")) {
    const [name, , gidText, members] = line.split(":");
    const gid = parseId(gidText);
    if (!name || name.startsWith("#") || gid === undefined) continue;
    entries.push({ name, gid, members: members === undefined || members === "" ? [] : members.split(",") });
  }
  return entries;
}

function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= idMax ? id : undefined;
}
