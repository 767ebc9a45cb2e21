import { readFile } from "node:fs/promises";
import { userInfo } from "node:os";

import { run } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { distrust, trust, type BrowserUser } from "../platform/trust-store.ts";
import { authorityPath } from "../settings.ts";

/** Has this machine trust the local authority that `--tls` made. */
export async function trustAuthority(context: CommandContext): Promise<number> {
  const { path, pem } = await localAuthority(context);
  requireRoot("trust");
  const stores = await trust(path, pem, await browserUser(context));
  if (context.isJson) await context.printJson({ authority_path: path, stores });
  else {
    for (const store of stores) {
      const what = store.store === "system" ? "programs of this machine" : "a browser";
      await context.print(
        store.hint === undefined ? `trusted by ${what}: ${store.path}` : `not trusted by ${what} (${store.path}): ${store.hint}`,
      );
    }
    await context.note(`Node.js programs want NODE_EXTRA_CA_CERTS=${path}; Python's requests and httpx want SSL_CERT_FILE=${path}`);
  }
  return stores.every((store) => store.hint === undefined) ? exitCodes.ok : exitCodes.error;
}

export async function distrustAuthority(context: CommandContext): Promise<number> {
  const { path, pem } = await localAuthority(context);
  requireRoot("distrust");
  await distrust(pem, await browserUser(context));
  if (context.isJson) await context.printJson({ authority_path: path, stores: [] });
  else await context.print("this machine no longer trusts the local authority");
  return exitCodes.ok;
}

/** Prints its certificate, for other machines and programs. */
export async function printAuthority(context: CommandContext): Promise<number> {
  const { path, pem } = await localAuthority(context);
  if (context.isJson) await context.printJson({ authority_path: path, pem });
  else await context.print(pem.trim());
  return exitCodes.ok;
}

async function localAuthority(context: CommandContext): Promise<{ path: string; pem: string }> {
  const path = authorityPath(context.settings.dir);
  const pem = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new CliError(`there is no local certificate authority (${path}: ${error.code})`, {
      hint: "`roost up --tls` makes one; a certificate of your own (ROOST_TLS_CERT) needs none",
    });
  });
  return { path, pem };
}

function requireRoot(verb: string): void {
  if (process.getuid?.() === 0) return;
  throw new CliError("the machine's store of authorities is root's", { hint: `sudo roost tls ${verb}` });
}

/** Who sits here: with sudo, the one who called it. */
async function browserUser({ io }: CommandContext): Promise<BrowserUser | undefined> {
  const name = io.environment["SUDO_USER"] ?? userInfo().username;
  const entry = await run(["getent", "passwd", name]).catch(() => ""); // no such user: no browsers
  const home = entry.trim().split(":")[5];
  return home === undefined ? undefined : { name, home };
}
