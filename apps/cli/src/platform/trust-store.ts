import { X509Certificate } from "node:crypto";
import { access, copyFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";

import { CliError } from "../failure.ts";

/** Name of the authority wherever one is asked for */
const nickname = "Roost on this machine";

/** Where a distribution keeps authorities of the machine's own, and what has all programs see them. */
interface SystemStore {
  readonly folder: string;
  readonly extension: string;
  readonly update: readonly [string, ...string[]];
}

const systemStores: readonly SystemStore[] = [
  // Debian, Ubuntu, Alpine
  { folder: "/usr/local/share/ca-certificates", extension: "crt", update: ["update-ca-certificates"] },
  // Fedora, RHEL
  { folder: "/etc/pki/ca-trust/source/anchors", extension: "pem", update: ["update-ca-trust", "extract"] },
  // Arch
  { folder: "/etc/ca-certificates/trust-source/anchors", extension: "pem", update: ["trust", "extract-compat"] },
];

/** A store that has the authority now, or, with `hint`, has not, and what to do about that. */
export interface Trusting {
  readonly store: "system" | "browser";
  readonly path: string;
  readonly hint?: string;
}

/** Whose browsers are meant. */
export interface BrowserUser {
  readonly name: string;
  readonly home: string;
}

/** Makes programs of this machine trust the authority (needs root), and the user's browsers, which have stores of their own. */
export async function trust(certificatePath: string, pem: string, user: BrowserUser | undefined): Promise<Trusting[]> {
  const system = await systemStore();
  const path = installedPath(system, pem);
  await copyFile(certificatePath, path);
  await update(system);
  const done: Trusting[] = [{ store: "system", path }];
  if (user === undefined) return done;
  for (const folder of await browserStores(user)) {
    const hint = await certutil(user, folder, ["-A", "-t", "C,,", "-n", nickname, "-i", certificatePath]);
    done.push({ store: "browser", path: folder, ...(hint === undefined ? {} : { hint }) });
  }
  return done;
}

/** Takes that back. Nothing to do is no error. */
export async function distrust(pem: string, user: BrowserUser | undefined): Promise<void> {
  const system = await systemStore();
  await rm(installedPath(system, pem), { force: true });
  await update(system);
  if (user === undefined) return;
  for (const folder of await browserStores(user)) await certutil(user, folder, ["-D", "-n", nickname]);
}

async function systemStore(): Promise<SystemStore> {
  for (const store of systemStores) {
    if (await exists(store.folder)) return store;
  }
  throw new CliError("this machine has no store for certificate authorities that is known", {
    hint: "install the package ca-certificates, or give programs the file itself: NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, curl --cacert",
  });
}

function installedPath(store: SystemStore, pem: string): string {
  const fingerprint = new X509Certificate(pem).fingerprint256.replaceAll(":", "").slice(0, 12).toLowerCase();
  return join(store.folder, `roost-${fingerprint}.${store.extension}`);
}

async function update({ update }: SystemStore): Promise<void> {
  await run(update).catch((error: unknown) => {
    throw new CliError(`the machine's store of authorities could not be updated: ${String(error)}`, {
      hint: `run \`${update.join(" ")}\` as root`,
      cause: error,
    });
  });
}

/** Folders with a database of NSS: Chromium's, and each profile's of Firefox. */
async function browserStores({ home }: BrowserUser): Promise<string[]> {
  const firefox = join(home, ".mozilla", "firefox");
  const profiles = await readdir(firefox).catch(() => []); // there is no Firefox
  const candidates = [join(home, ".pki", "nssdb"), ...profiles.map((profile) => join(firefox, profile))];
  const found = await Promise.all(candidates.map(async (folder) => ((await exists(join(folder, "cert9.db"))) ? [folder] : [])));
  return found.flat();
}

/** As the user, whose files they are. Answers what is in the way. */
async function certutil({ name }: BrowserUser, folder: string, args: readonly string[]): Promise<string | undefined> {
  try {
    await run(["runuser", "-u", name, "--", "certutil", "-d", `sql:${folder}`, ...args]);
    return undefined;
  } catch (error) {
    return String(error).includes("No such file or directory")
      ? "install libnss3-tools, which has certutil, and run this again"
      : String(error);
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
