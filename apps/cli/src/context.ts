import type { RoostClient } from "@roost/sdk";
import picocolors from "picocolors";

import type { Interrupts } from "./interrupts.ts";
import { hasColors, type Io } from "./io.ts";
import { write } from "./output/write.ts";
import { UsageError } from "./failure.ts";
import { isSamePlatform, readSession, type KeptSession } from "./session-file.ts";
import { clientOptions, findAccess, readEndpoint, type ClientSettings } from "./settings.ts";

export type Colors = ReturnType<typeof picocolors.createColors>;

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean | undefined;
  readonly url?: string | undefined;
  readonly dir?: string | undefined;
}

/** What a running command works with. */
export class CommandContext {
  readonly io: Io;
  readonly interrupts: Interrupts;
  readonly isJson: boolean;
  readonly settings: ClientSettings;
  /** Colours of standard output. */
  readonly colors: Colors;
  readonly #isFolderNamed: boolean;
  #client: Promise<RoostClient> | undefined;

  constructor(io: Io, interrupts: Interrupts, options: CommonOptions) {
    this.io = io;
    this.interrupts = interrupts;
    this.isJson = options.json === true;
    this.settings = clientOptions.read(io.environment, { url: options.url, dir: options.dir });
    this.#isFolderNamed = (options.dir ?? io.environment["ROOST_DIR"] ?? "") !== "";
    this.colors = picocolors.createColors(hasColors(io.stdout, io.environment));
  }

  /** Aborted when the user interrupts the command. */
  get signal(): AbortSignal {
    return this.interrupts.signal;
  }

  async client(): Promise<RoostClient> {
    this.#client ??= this.#connect();
    return this.#client;
  }

  async #connect(): Promise<RoostClient> {
    const { RoostClient } = await import("@roost/sdk");
    const session = await this.session();
    const { team: teamId } = this.settings;
    const access = session === undefined ? await findAccess(this.settings) : { url: session.url, sessionToken: session.token, teamId };
    return new RoostClient({ ...access, userAgent: "roost-cli" });
  }

  /** Of who signed in, if that is what requests are sent with: a key that is given goes before, and so does a platform that is named and is another one. */
  async session(): Promise<KeptSession | undefined> {
    const { apiKey, url } = this.settings;
    if (apiKey !== undefined) return undefined;
    const session = await readSession(this.io.environment);
    const isNamed = url !== undefined || this.#isFolderNamed;
    if (session === undefined || !isNamed) return session;
    const named = url ?? (await readEndpoint(this.settings.dir))?.url;
    return named !== undefined && isSamePlatform(session.url, named) ? session : undefined;
  }

  /** Where somebody wants to sign in. */
  async platformUrl(): Promise<string> {
    const url = this.settings.url ?? (await readEndpoint(this.settings.dir))?.url ?? (await readSession(this.io.environment))?.url;
    if (url !== undefined) return url;
    throw new UsageError("which platform? none runs on this machine", "name it with --url, or ROOST_URL");
  }

  async print(text: string): Promise<void> {
    await write(this.io.stdout, `${text}\n`);
  }

  async printJson(value: unknown): Promise<void> {
    await write(this.io.stdout, `${JSON.stringify(value)}\n`);
  }

  /** For people, beside the output: never when the output is JSON. */
  async note(text: string): Promise<void> {
    if (!this.isJson) await write(this.io.stderr, `${text}\n`);
  }

  async warn(text: string): Promise<void> {
    const colors = picocolors.createColors(hasColors(this.io.stderr, this.io.environment));
    await write(this.io.stderr, `${colors.yellow("warning:")} ${text}\n`);
  }
}
