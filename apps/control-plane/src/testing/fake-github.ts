import { createHash, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface FakeGithubUser {
  readonly id: number;
  readonly login: string;
  readonly name: string | null;
  readonly emails: readonly { readonly email: string; readonly primary: boolean; readonly verified: boolean }[];
}

interface Grant {
  readonly user: FakeGithubUser;
  readonly challenge: string;
  readonly redirectUri: string;
}

/** As much of GitHub (Enterprise Server) as signing in needs, with the checks that the real one makes. */
export class FakeGithub implements AsyncDisposable {
  readonly clientId = "the-client";
  readonly clientSecret = "the-secret";
  readonly #server: Server;
  readonly #grants = new Map<string, Grant>();
  readonly #tokens = new Map<string, FakeGithubUser>();
  /** In place of an answer of the API */
  fault: ((path: string, response: ServerResponse) => boolean) | undefined;

  private constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  static async start(): Promise<FakeGithub> {
    const github = new FakeGithub();
    await new Promise<void>((resolve) => github.#server.listen(0, "127.0.0.1", resolve));
    return github;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** What a browser does at GitHub: `user` says yes. Where it is sent back to. */
  approve(authorizationUrl: string, user: FakeGithubUser): URL {
    const query = new URL(authorizationUrl).searchParams;
    if (query.get("client_id") !== this.clientId || query.get("code_challenge_method") !== "S256")
      throw new Error("GitHub does not know this app");
    const code = randomBytes(10).toString("hex");
    const redirectUri = query.get("redirect_uri") ?? "";
    this.#grants.set(code, { user, challenge: query.get("code_challenge") ?? "", redirectUri });
    const back = new URL(redirectUri);
    back.search = new URLSearchParams({ code, state: query.get("state") ?? "" }).toString();
    return back;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? "/", this.url);
    if (this.fault?.(pathname, response) === true) return;
    const json = (value: unknown, status = 200) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (pathname === "/login/oauth/access_token") return json(this.#exchange(await read(request)));
    const user = this.#tokens.get(/^bearer (.*)$/i.exec(request.headers.authorization ?? "")?.[1] ?? "");
    if (user === undefined) return json({ message: "Bad credentials" }, 401);
    if (pathname === "/api/v3/user") return json({ id: user.id, login: user.login, name: user.name, email: "not@to-be.trusted" });
    if (pathname === "/api/v3/user/emails") return json(user.emails);
    json({ message: "Not Found" }, 404);
  }

  /** Like GitHub, an error is an answer with status 200. */
  #exchange(body: URLSearchParams): object {
    const grant = this.#grants.get(body.get("code") ?? "");
    this.#grants.delete(body.get("code") ?? "");
    const challenge = createHash("sha256")
      .update(body.get("code_verifier") ?? "")
      .digest("base64url");
    const isRight = grant !== undefined && grant.challenge === challenge && grant.redirectUri === body.get("redirect_uri");
    if (!isRight || body.get("client_secret") !== this.clientSecret) return { error: "bad_verification_code" };
    const token = randomBytes(10).toString("hex");
    this.#tokens.set(token, grant.user);
    return { access_token: token, token_type: "bearer", scope: "read:user,user:email" };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function read(request: IncomingMessage): Promise<URLSearchParams> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return new URLSearchParams(Buffer.concat(chunks).toString("utf8"));
}
