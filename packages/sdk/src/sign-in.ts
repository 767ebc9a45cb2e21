import type { ConfirmInput, LoginInput, SignedIn, SignInMethods, SignUpAnswer, SignUpInput } from "@roost/contract";

import { Api } from "./api.ts";
import { addressOf, openConnection, type Connection, type RequestOptions, type RoostClientOptions } from "./connection.ts";
import { pathOf } from "./endpoint-types.ts";

export type SignInOptions = Pick<RoostClientOptions, "url" | "timeoutMs" | "userAgent">;

/**
 * What needs no credentials: getting some. The token of a session goes into a client:
 *
 *     const { token } = await new SignIn({ url }).login({ email, password });
 *     const roost = new RoostClient({ url, sessionToken: token });
 */
export class SignIn {
  readonly #connection: Connection;
  readonly #api: Api;

  constructor(options: SignInOptions) {
    this.#connection = openConnection(options);
    this.#api = new Api(this.#connection);
  }

  async methods(options: RequestOptions = {}): Promise<SignInMethods> {
    return this.#api.call("signInMethods", {}, options);
  }

  /** Where the address must be confirmed, nobody is signed in yet: a mail has the token for `confirm`. */
  async signUp(input: Omit<SignUpInput, "deliver">, options: RequestOptions = {}): Promise<SignUpAnswer> {
    return this.#api.call("signUp", { body: input }, options);
  }

  async confirm(input: Omit<ConfirmInput, "deliver">, options: RequestOptions = {}): Promise<SignedIn> {
    return this.#api.call("confirmAddress", { body: input }, options);
  }

  async login(input: Omit<LoginInput, "deliver">, options: RequestOptions = {}): Promise<SignedIn> {
    return this.#api.call("login", { body: input }, options);
  }

  /** Sends a mail if there is such an account; that there is none is not told. */
  async askPasswordReset(email: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("askPasswordReset", { body: { email } }, options);
  }

  /** With the token of that mail; ends all sessions. */
  async resetPassword(token: string, newPassword: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("resetPassword", { body: { token, new_password: newPassword } }, options);
  }

  /**
   * What to open in a browser to sign in with GitHub. `returnTo`: `http://127.0.0.1:PORT/…`, where the program waits for `?code=…` or `?error=…`;
   * `challenge`: base64url of the SHA-256 of the verifier for `exchange`.
   */
  githubUrl(returnTo: string, challenge: string): string {
    return addressOf(this.#connection, pathOf("startGithub", {}), { return_to: returnTo, challenge }).href;
  }

  async exchange(code: string, verifier: string, options: RequestOptions = {}): Promise<SignedIn> {
    return this.#api.call("exchangeCode", { body: { code, verifier } }, options);
  }
}
