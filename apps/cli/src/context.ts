import type { RoostClient } from "@roost/sdk";
import picocolors from "picocolors";

import type { Interrupts } from "./interrupts.ts";
import { hasColors, type Io } from "./io.ts";
import { write } from "./output/write.ts";
import { clientOptions, findAccess, type ClientSettings } from "./settings.ts";

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
  #client: Promise<RoostClient> | undefined;

  constructor(io: Io, interrupts: Interrupts, options: CommonOptions) {
    this.io = io;
    this.interrupts = interrupts;
    this.isJson = options.json === true;
    this.settings = clientOptions.read(io.environment, { url: options.url, dir: options.dir });
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
    return new RoostClient({ ...(await findAccess(this.settings)), userAgent: "roost-cli" });
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
