import { PlatformError } from "@roost/contract";
import { MiB, second } from "@roost/kit";
import {
  allowInsecureRequests,
  authorizationCodeGrantRequest,
  calculatePKCECodeChallenge,
  ClientSecretPost,
  processAuthorizationCodeResponse,
  protectedResourceRequest,
  validateAuthResponse,
  type AuthorizationServer,
  type Client,
} from "oauth4webapi";
import { z } from "zod";

/** Time GitHub has for each answer in `ms` */
const answerTimeoutMs = 10 * second;
/** Longest answer that is read in `bytes` */
const answerBytesMax = 1 * MiB;

const profileSchema = z.object({ id: z.int().positive(), login: z.string(), name: z.string().nullish() });
const emailsSchema = z.array(z.object({ email: z.string(), primary: z.boolean(), verified: z.boolean() })).max(1000);

export interface GithubSettings {
  readonly clientId: string;
  readonly clientSecret: string;
  /** Of GitHub, or of a GitHub Enterprise Server, without a slash at the end */
  readonly url: string;
  /** Where it sends browsers back to */
  readonly redirectUri: string;
}

/** Somebody as GitHub knows them. */
export interface GithubUser {
  /** Stays; logins and addresses change hands */
  readonly subject: string;
  readonly name: string;
  /** The primary address, if GitHub has verified it; null: there is none to rely on */
  readonly email: string | null;
}

/** The authorization code flow with PKCE, and who the code was for. */
export class GithubClient {
  readonly #settings: GithubSettings;
  readonly #server: AuthorizationServer;
  readonly #client: Client;
  readonly #apiUrl: string;
  /** Plain HTTP: on this machine only, where tests are */
  readonly #isInsecure: boolean;

  constructor(settings: GithubSettings) {
    const { url, clientId } = settings;
    this.#settings = settings;
    this.#server = {
      issuer: url,
      authorization_endpoint: `${url}/login/oauth/authorize`,
      token_endpoint: `${url}/login/oauth/access_token`,
    };
    this.#client = { client_id: clientId };
    this.#apiUrl = url === "https://github.com" ? "https://api.github.com" : `${url}/api/v3`;
    this.#isInsecure = url.startsWith("http:");
  }

  async authorizationUrl(state: string, codeVerifier: string): Promise<string> {
    const { url, clientId, redirectUri } = this.#settings;
    const authorization = new URL(`${url}/login/oauth/authorize`);
    authorization.search = new URLSearchParams({
      response_type: "code",
      client_id: clientId,
      redirect_uri: redirectUri,
      scope: "read:user user:email",
      state,
      code_challenge: await calculatePKCECodeChallenge(codeVerifier),
      code_challenge_method: "S256",
    }).toString();
    return authorization.href;
  }

  /** Throws `provider_unavailable`. */
  async userOf(code: string, state: string, codeVerifier: string): Promise<GithubUser> {
    try {
      const token = await this.#exchange(code, state, codeVerifier);
      const profile = profileSchema.parse(await this.#get("/user", token));
      const emails = emailsSchema.parse(await this.#get("/user/emails", token));
      const email = emails.find((entry) => entry.primary && entry.verified)?.email;
      return { subject: String(profile.id), name: profile.name ?? profile.login, email: email === undefined ? null : plainAddress(email) };
    } catch (error) {
      throw new PlatformError("provider_unavailable", "GitHub did not say who you are; try again", { cause: error });
    }
  }

  async #exchange(code: string, state: string, codeVerifier: string): Promise<string> {
    const { clientSecret, redirectUri } = this.#settings;
    const parameters = validateAuthResponse(this.#server, this.#client, new URLSearchParams({ code, state }), state);
    const answer = await authorizationCodeGrantRequest(
      this.#server,
      this.#client,
      ClientSecretPost(clientSecret),
      parameters,
      redirectUri,
      codeVerifier,
      this.#requestOptions(),
    );
    return (await processAuthorizationCodeResponse(this.#server, this.#client, answer)).access_token;
  }

  async #get(path: string, token: string): Promise<unknown> {
    const headers = new Headers({ accept: "application/vnd.github+json", "user-agent": "roost" });
    const answer = await protectedResourceRequest(token, "GET", new URL(this.#apiUrl + path), headers, null, this.#requestOptions());
    if (!answer.ok) throw new Error(`GitHub answered ${answer.status} for ${path}`);
    return JSON.parse(await readBounded(answer));
  }

  #requestOptions() {
    return { signal: AbortSignal.timeout(answerTimeoutMs), [allowInsecureRequests]: this.#isInsecure };
  }
}

/** In lower case; null for one that is not ASCII: capitals of other scripts (the sign for kelvin) become letters of somebody else's address. */
function plainAddress(email: string): string | null {
  return /^[\x21-\x7e]+$/.test(email) ? email.toLowerCase() : null;
}

async function readBounded(answer: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of answer.body ?? []) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) throw new Error(`GitHub's answer is longer than ${answerBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
