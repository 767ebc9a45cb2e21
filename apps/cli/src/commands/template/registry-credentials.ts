import type { RegistryCredentials } from "@roost/sdk";

import type { CommandContext } from "../../context.ts";
import { UsageError } from "../../failure.ts";

/** A password in characters; what is longer is not one */
const passwordLengthMax = 8192;

export interface RegistryOptions {
  readonly registryUser?: string;
  readonly registryPasswordStdin?: boolean;
}

/** Who asks the registry. The password comes from standard input: an argument would be seen by every user of the machine. */
export async function registryCredentials(context: CommandContext, options: RegistryOptions): Promise<RegistryCredentials | undefined> {
  const { registryUser: username, registryPasswordStdin: fromStdin } = options;
  if (username === undefined && fromStdin !== true) return undefined;
  if (username === undefined || fromStdin !== true) throw new UsageError("--registry-user and --registry-password-stdin go together");
  let text = "";
  for await (const chunk of context.io.stdin) {
    text += String(chunk);
    if (text.length > passwordLengthMax)
      throw new UsageError(`the password on standard input is longer than ${passwordLengthMax} characters`);
  }
  const password = text.replace(/\r?\n$/, "");
  if (password === "") throw new UsageError("there is no password on standard input");
  return { type: "basic", username, password };
}
