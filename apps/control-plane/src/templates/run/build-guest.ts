import type { Logger } from "@roost/kit";
import { PlatformError } from "@roost/contract";

import type { Guest } from "../../guest/guest.ts";
import { runInGuest, script, type CommandEnd, type CommandOptions, type GuestCommand } from "./guest-command.ts";
import { findAccountScript, makeAccountScript } from "./scripts.ts";

/** An account of a guest. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

export interface BuildGuestParts {
  readonly guest: Guest;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** The guest of a build's sandbox: commands in it, and who is who in it. */
export class BuildGuest {
  readonly #parts: BuildGuestParts;

  constructor(parts: BuildGuestParts) {
    this.#parts = parts;
  }

  async run(command: GuestCommand, options: Partial<CommandOptions> = {}): Promise<CommandEnd> {
    return runInGuest(this.#parts.guest, command, { signal: this.#parts.signal, log: this.#parts.log, ...options });
  }

  /** Runs a script of ours. Throws what it says is wrong. */
  async runScript(text: string, args: readonly string[], options: Partial<CommandOptions> = {}): Promise<void> {
    const { exitCode, tail } = await this.run(script(text, args), options);
    if (exitCode !== 0) throw new ScriptFailed(tail.at(-1) ?? `exit status ${exitCode}`);
  }

  /** The output of a script of ours, at most `bytesMax` of it. */
  async output(text: string, args: readonly string[], bytesMax: number): Promise<string> {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    const onBytes = async (data: Uint8Array) => {
      bytes += data.length;
      if (bytes <= bytesMax) chunks.push(data);
    };
    await this.runScript(text, args, { onBytes });
    if (bytes > bytesMax) throw new ScriptFailed("it is more than can be listed");
    return Buffer.concat(chunks).toString("utf8");
  }

  /**
   * The account that a step means by a name, a number, or either with a group. Empty: the guest's default, which is root's where there is no `user`.
   * Throws `user_unknown` as the guest agent says it.
   */
  async account(user: string): Promise<Account> {
    if (user === "") return (await this.#find("user")) ?? this.account("root");
    const found = await this.#find(user);
    if (found !== undefined) return found;
    throw new PlatformError("user_unknown", `invalid username: '${user}'`);
  }

  /** The same; it is made where it is missing. */
  async makeAccount(user: string): Promise<Account> {
    return user === "" ? this.account(user) : accountFrom(await this.output(makeAccountScript, [user], accountBytesMax));
  }

  async #find(user: string): Promise<Account | undefined> {
    const said = await this.output(findAccountScript, [user], accountBytesMax);
    return said.trim() === "" ? undefined : accountFrom(said);
  }
}

/** A script of ours did not do what it should: its message says why, in the guest's words. */
export class ScriptFailed extends Error {
  override readonly name = "ScriptFailed";
}

/** A line of passwd(5), in `bytes`; PATH_MAX and some more */
const accountBytesMax = 8 * 1024;

function accountFrom(said: string): Account {
  const [, name, uid, gid, home] = /^([^:\n]{1,64}):(\d{1,10}):(\d{1,10}):(\/[^\n]*)\n?$/.exec(said) ?? [];
  if (name === undefined || uid === undefined || gid === undefined || home === undefined) {
    throw new ScriptFailed("the guest's /etc/passwd makes no sense");
  }
  return { name, uid: Number(uid), gid: Number(gid), home };
}
