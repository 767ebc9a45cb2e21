import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { createLogger, OptionError, Options } from "@roost/kit";

import { createGuestAgent } from "./guest-agent.ts";
import { guestAgentOptions, type GuestAgentOptions } from "./options.ts";

/** Exit code for settings nobody can start with: starting again does not help. */
const exitUsage = 2;

const options = readOptions();
const log = createLogger({ level: options.logLevel, name: "guest-agent" });

// What was not foreseen is a bug: say it and end. The supervisor starts the agent afresh, its state is on disk.
process.on("uncaughtException", (error, origin) => fail(error, origin));
process.on("unhandledRejection", (reason) => fail(reason, "unhandledRejection"));

protectFromOutOfMemory();
const agent = createGuestAgent(options, {
  launcher: options.launcher ?? fileURLToPath(new URL("launcher", import.meta.url)),
  log,
  onFailure: (error) => fail(error, "launcher"),
});
for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => {
    void agent.close().then(() => process.exit(0));
  });
}
const port = await agent.listen();
if (process.send !== undefined) process.send({ port }); // whoever forked us waits for it

function readOptions(): GuestAgentOptions {
  const { keys } = guestAgentOptions;
  try {
    const flag = (key: (typeof keys)[number]) => guestAgentOptions.flagName(key).slice(2);
    const config = { help: { type: "boolean" }, ...Object.fromEntries(keys.map((key) => [flag(key), { type: "string" }])) } as const;
    const values: Record<string, unknown> = parseArgs({ options: config }).values;
    if (values["help"] === true) {
      const line = (key: (typeof keys)[number]) =>
        `--${flag(key)}, ${guestAgentOptions.environmentName(key)}: ${guestAgentOptions.table[key].desc}`;
      process.stdout.write(`${keys.map(line).join("\n")}\n`);
      process.exit(0);
    }
    const unknown = Options.unknownNames(process.env, guestAgentOptions.prefix, [guestAgentOptions]);
    if (unknown.length > 0) throw new OptionError(`there is no such setting: ${unknown.join(", ")}`);
    return guestAgentOptions.read(process.env, Object.fromEntries(keys.map((key) => [key, values[flag(key)]])));
  } catch (error) {
    if (!(error instanceof OptionError) && !(error instanceof TypeError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exit(exitUsage);
  }
}

/** When the guest has no memory left, what the user runs goes first (the launcher gives it 100), the agent last. */
function protectFromOutOfMemory(): void {
  try {
    writeFileSync("/proc/self/oom_score_adj", "-900");
  } catch (error) {
    log.debug({ err: error }, "not protected from the out-of-memory killer"); // not root: a test
  }
}

function fail(error: unknown, origin: string): never {
  log.error({ err: error, origin }, "the guest agent failed and ends");
  process.exit(1);
}
