import { registryCredentialsSchema, type RegistryCredentials } from "@roost/contract";

import type { CommandContext } from "../../context.ts";
import { UsageError } from "../../failure.ts";

/** What standard input may hold, in characters: a service account's key file is some 2,000 */
const secretLengthMax = 32_768;

export interface RegistryOptions {
  readonly registryUser?: string;
  readonly registryPasswordStdin?: boolean;
  readonly registryCredentialsStdin?: boolean;
}

/** Who asks the registry. Secrets come from standard input: an argument would be seen by every user of the machine. */
export async function registryCredentials(context: CommandContext, options: RegistryOptions): Promise<RegistryCredentials | undefined> {
  const { registryUser: username, registryPasswordStdin: hasPassword = false, registryCredentialsStdin: hasAll = false } = options;
  if (hasAll) {
    if (username !== undefined || hasPassword)
      throw new UsageError("--registry-credentials-stdin says all: leave out the other --registry options");
    return parseCredentials(await secretFrom(context));
  }
  if (username === undefined && !hasPassword) return undefined;
  if (username === undefined || !hasPassword) throw new UsageError("--registry-user and --registry-password-stdin go together");
  const password = await secretFrom(context);
  if (password === "") throw new UsageError("there is no password on standard input");
  return { type: "basic", username, password };
}

async function secretFrom({ io }: CommandContext): Promise<string> {
  let text = "";
  for await (const chunk of io.stdin) {
    text += String(chunk);
    if (text.length > secretLengthMax) throw new UsageError(`what standard input holds is longer than ${secretLengthMax} characters`);
  }
  return text.replace(/\r?\n$/, "");
}

/** Says which field is wrong, never what it holds. */
function parseCredentials(text: string): RegistryCredentials {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new UsageError(`standard input is no JSON; it must be credentials such as ${exampleCredentials}`);
  }
  const parsed = registryCredentialsSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const fields = [...new Set(parsed.error.issues.map((issue) => issue.path.join(".") || "type"))].join(", ");
  throw new UsageError(`the credentials on standard input are not right in: ${fields}; they must be such as ${exampleCredentials}`);
}

const exampleCredentials = '{"type":"token","token":"…"}; the other types are basic, aws and gcp';
