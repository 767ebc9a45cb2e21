import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

import { envsSchema, type GuestInit } from "@roost/contract";
import { must, type Logger } from "@roost/kit";
import { z } from "zod";

import type { SandboxIdentity } from "../process/environment.ts";
import { sameToken } from "./access-token.ts";
import type { TrustedFiles } from "./trusted-authority.ts";

const recordSchema = z.strictObject({
  initialized: z.literal(true),
  accessToken: z.string().optional(),
  envVars: envsSchema,
  defaultUser: z.string().optional(),
  defaultWorkdir: z.string().optional(),
  sandboxId: z.string().optional(),
  templateId: z.string().optional(),
  trusted: z.object({ own: z.string(), bundle: z.string().nullable() }).optional(),
});
type InitRecord = z.infer<typeof recordSchema>;

/**
 * What `/init` told the agent. Kept in a file (mode 0600, on a tmpfs), so that an agent that was restarted is neither
 * open to everybody nor without its environment.
 *
 *     fresh --/init--> initialized: every further /init must know the token, if there is one
 *     file damaged --> locked: nothing passes; better a sandbox that must be replaced than an open one
 */
export class InitState {
  readonly #path: string;
  #record: InitRecord | undefined;

  constructor(path: string, log: Logger) {
    this.#path = path;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#record = load(path, log);
  }

  get accessToken(): string | undefined {
    return this.#record?.accessToken;
  }

  get envVars(): Readonly<Record<string, string>> {
    return this.#record?.envVars ?? {};
  }

  /** Undefined means `user` where there is one, else root. */
  get defaultUser(): string | undefined {
    return this.#record?.defaultUser || undefined;
  }

  /** Folder processes start in unless told otherwise; undefined means the user's home. */
  get defaultWorkdir(): string | undefined {
    return this.#record?.defaultWorkdir || undefined;
  }

  get identity(): SandboxIdentity {
    return { sandboxId: this.#record?.sandboxId, templateId: this.#record?.templateId, trusted: this.#record?.trusted };
  }

  /** Whether a request that carries `headerToken` may pass. */
  mayPass(headerToken: string | readonly string[] | undefined): boolean {
    const token = this.#record?.accessToken;
    return token === undefined || (typeof headerToken === "string" && sameToken(headerToken, token));
  }

  /**
   * Whether an `/init` may be applied: the first always; later ones know the present token, as header (it may then
   * be replaced) or as the token they bring (the same /init again, after an answer that got lost).
   */
  mayInitialize(headerToken: string | readonly string[] | undefined, init: GuestInit): boolean {
    return this.mayPass(headerToken) || (init.accessToken !== undefined && this.mayPass(init.accessToken));
  }

  /**
   * Applies what `init` says and keeps what it does not mention ("" for user or folder: none any more); in its file when it returns. Not asynchronous: a few bytes on a
   * tmpfs, and nothing may come between the file and what is true here.
   */
  apply(init: GuestInit): void {
    const previous = this.#record;
    const next: InitRecord = {
      initialized: true,
      envVars: init.envVars ?? previous?.envVars ?? {},
      ...defined("accessToken", init.accessToken ?? previous?.accessToken),
      ...defined("defaultUser", init.defaultUser ?? previous?.defaultUser),
      ...defined("defaultWorkdir", init.defaultWorkdir ?? previous?.defaultWorkdir),
      ...defined("sandboxId", init.sandboxId ?? previous?.sandboxId),
      ...defined("templateId", init.templateId ?? previous?.templateId),
      ...(previous?.trusted === undefined ? {} : { trusted: previous.trusted }),
    };
    this.#write(next);
  }

  /** Where the certificate is that programs are to trust from now on. Only once initialized. */
  setTrusted(trusted: TrustedFiles | undefined): void {
    const { trusted: _, ...record } = must(this.#record, "what an /init told");
    this.#write({ ...record, ...(trusted === undefined ? {} : { trusted }) });
  }

  /** Answers a function that brings back what is known now. */
  keep(): () => void {
    const kept = this.#record;
    return () => {
      if (kept === undefined) this.forget();
      else this.#write(kept);
    };
  }

  #write(record: InitRecord): void {
    const staging = `${this.#path}.new`;
    writeFileSync(staging, JSON.stringify(record), { mode: 0o600 });
    renameSync(staging, this.#path);
    this.#record = record;
  }

  /** Fresh again, as before the first `/init`. */
  forget(): void {
    rmSync(this.#path, { force: true });
    this.#record = undefined;
  }
}

function load(path: string, log: Logger): InitRecord | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    return locked(error, log);
  }
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (error) {
    return locked(error, log);
  }
}

function locked(error: unknown, log: Logger): InitRecord {
  log.error({ err: error }, "the state of /init is damaged: nothing passes any more");
  return { initialized: true, envVars: {}, accessToken: randomBytes(32).toString("hex") };
}

function defined<Key extends string>(key: Key, value: string | undefined): { readonly [K in Key]?: string } {
  return value === undefined ? {} : ({ [key]: value } as { readonly [K in Key]: string });
}
