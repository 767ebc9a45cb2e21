import { hkdfSync } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import { setUpCodeFile } from "@roost/contract";
import { writeFileDurably, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { hasFirstUser } from "../db/users.ts";
import { hashOfSecret } from "./secrets.ts";

const codeBytes = 16;

export interface SetUpDependencies {
  readonly db: Db;
  /** Of the installation: 64 hex digits */
  readonly secretKey: string;
  /** State folder, where the operator finds the code */
  readonly dir: string;
  readonly log: Logger;
}

/**
 * The code that makes whoever signs up with it the platform's admin, once: else that would be whoever comes first, and on an exposed machine that may
 * be a stranger. It follows from the installation's secret key, so all control planes of one database have the same one, and nothing has to be kept
 * of it. It is in a file that only the operator can read, for as long as there is no admin; never in a log.
 */
export class SetUp {
  readonly code: string;
  readonly #deps: SetUpDependencies;

  constructor(deps: SetUpDependencies) {
    this.#deps = deps;
    this.code = setUpCodeOf(deps.secretKey);
  }

  isCode(text: string): boolean {
    return hashOfSecret(text).equals(hashOfSecret(this.code)); // of hashes: how long it takes tells nothing of the code
  }

  /** Puts the code where the operator finds it, or takes it away when it is of no use any more. What fails is tried again at the next upkeep. */
  async offer(): Promise<void> {
    const { db, dir, log } = this.#deps;
    const path = join(dir, setUpCodeFile);
    try {
      if (await hasFirstUser(db)) return await rm(path, { force: true });
      if ((await readFile(path, "utf8").catch(() => "")).trim() === this.code) return;
      await rm(path, { force: true }); // whatever is there keeps its mode otherwise
      await writeFileDurably(path, `${this.code}\n`, { mode: 0o600 });
      log.info({ path }, "nobody has signed up yet: whoever does with the code in this file becomes the platform's admin");
    } catch (error) {
      log.warn({ err: error, path }, "could not see to the file with the set-up code");
    }
  }
}

export function setUpCodeOf(secretKey: string): string {
  return Buffer.from(hkdfSync("sha256", Buffer.from(secretKey, "hex"), Buffer.alloc(0), "roost set-up code", codeBytes)).toString("hex");
}
