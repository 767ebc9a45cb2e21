import { PlatformError, type RegistryCredentials } from "@roost/contract";
import { second } from "@roost/kit";

/** What a registry client is given: a name with its password, or a token. */
export interface RegistryLogin {
  readonly username: string;
  readonly password: string;
  readonly token: string;
}

export const noLogin: RegistryLogin = { username: "", password: "", token: "" };

/** Longest wait for AWS in `ms` */
const awsTimeoutMs = 30 * second;
/** The name that Google's registries have for "the password is a service account's key" */
const gcpUsername = "_json_key";

/** Asks AWS for a password of an hour, as its registries want it: `user:password` in base64. Replaced in tests. */
export type AskAws = (
  credentials: Extract<RegistryCredentials, { readonly type: "aws" }>,
  signal: AbortSignal,
) => Promise<string | undefined>;

const askAws: AskAws = async ({ access_key_id: accessKeyId, secret_access_key: secretAccessKey, region }, signal) => {
  const { ECRClient, GetAuthorizationTokenCommand } = await import("@aws-sdk/client-ecr"); // not before somebody has credentials of AWS
  const client = new ECRClient({ region, credentials: { accessKeyId, secretAccessKey } });
  try {
    const abortSignal = AbortSignal.any([signal, AbortSignal.timeout(awsTimeoutMs)]);
    const answer = await client.send(new GetAuthorizationTokenCommand({}), { abortSignal });
    return answer.authorizationData?.[0]?.authorizationToken;
  } finally {
    client.destroy();
  }
};

/** What a build was given, as a registry takes it. Throws `registry_unreachable` when AWS gives no password. */
export async function loginFor(credentials: RegistryCredentials, signal: AbortSignal, ask: AskAws = askAws): Promise<RegistryLogin> {
  switch (credentials.type) {
    case "basic":
      return { ...noLogin, username: credentials.username, password: credentials.password };
    case "token":
      return { ...noLogin, token: credentials.token };
    case "gcp":
      return { ...noLogin, username: gcpUsername, password: credentials.service_account_json };
    case "aws":
      return awsLogin(await askOrSayWhy(credentials, signal, ask));
  }
}

async function askOrSayWhy(credentials: Parameters<AskAws>[0], signal: AbortSignal, ask: AskAws): Promise<string> {
  try {
    const token = await ask(credentials, signal);
    if (token !== undefined) return token;
  } catch (error) {
    signal.throwIfAborted();
    const said = error instanceof Error ? error.name : "unknown error"; // messages of AWS may repeat the key's id
    throw new PlatformError(
      "registry_unreachable",
      `AWS gave no password for its registry in ${credentials.region} (${said}): look at the access key and the region`,
      {
        cause: error,
      },
    );
  }
  throw new PlatformError("registry_unreachable", `AWS gave no password for its registry in ${credentials.region}`);
}

function awsLogin(token: string): RegistryLogin {
  const text = Buffer.from(token, "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon < 1) throw new PlatformError("registry_unreachable", "AWS gave a password that makes no sense");
  return { ...noLogin, username: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** The registry that an image reference names, as `host[:port]`. */
export function registryOf(reference: string): string {
  const [first = "", ...rest] = reference.split("/");
  const isHost = rest.length > 0 && (/[.:]/.test(first) || first === "localhost");
  return isHost ? first.toLowerCase() : defaultRegistry;
}

/** What Docker's tools take a reference without a host for */
const defaultRegistry = "docker.io";
