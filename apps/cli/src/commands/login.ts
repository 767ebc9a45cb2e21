import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { Deferred, minute } from "@roost/kit";
import { RoostError, type SignedIn, type SignIn } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { ask, readStdin } from "../output/prompt.ts";
import { printable } from "../output/printable.ts";
import { removeSession, writeSession } from "../session-file.ts";

/** Time somebody has to sign in with a browser, in `ms`: as long as the platform waits */
const browserTimeoutMs = 10 * minute;

export interface LoginOptions {
  readonly email?: string;
  readonly passwordStdin?: boolean;
  readonly github?: boolean;
}

export async function login(context: CommandContext, options: LoginOptions): Promise<number> {
  const { SignIn } = await import("@roost/sdk");
  const url = await context.platformUrl();
  const signIn = new SignIn({ url, userAgent: "roost-cli" });
  const signedIn = options.github === true ? await withGithub(context, signIn) : await withPassword(context, signIn, options);
  await keep(context, url, signedIn);
  return exitCodes.ok;
}

/** Keeps a session for the commands after this one, and says so. */
export async function keep(context: CommandContext, url: string, { user, token, team_id: teamId }: SignedIn): Promise<void> {
  if (token === null) throw new CliError("the platform gave no token for the session");
  await writeSession(context.io.environment, { url, token, email: user.email });
  if (context.isJson) await context.printJson({ user, team_id: teamId, url });
  else {
    await context.note(`signed in at ${url} as ${printable(user.name)} <${printable(user.email)}>`);
    await context.note(teamId === null ? "you are in no team yet: `roost team create NAME` makes one" : `acting for team ${teamId}`);
  }
}

async function withPassword({ io, signal }: CommandContext, signIn: SignIn, options: LoginOptions): Promise<SignedIn> {
  const email = options.email ?? (await ask(io, "E-mail: ", { instead: "give it with --email" }));
  return signIn.login({ email, password: await passwordOf(io, options, "Password: ") }, { signal });
}

/** From standard input where that is asked for, else from the terminal. */
export async function passwordOf(
  io: CommandContext["io"],
  options: { readonly passwordStdin?: boolean },
  question: string,
): Promise<string> {
  if (options.passwordStdin === true) return readStdin(io);
  return ask(io, question, { isSecret: true, instead: "hand it over with --password-stdin" });
}

/** Prints what to open, and waits on this machine's loopback address for the browser to come back with a code (RFC 8252). */
async function withGithub(context: CommandContext, signIn: SignIn): Promise<SignedIn> {
  const verifier = randomBytes(48).toString("base64url");
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  const arrived = new Deferred<URLSearchParams>();
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://127.0.0.1");
    const isBack = pathname === "/signed-in" && (searchParams.has("code") || searchParams.has("error"));
    response.writeHead(isBack ? 200 : 404, { "content-type": "text/plain; charset=utf-8", connection: "close" });
    response.end(isBack ? "You can close this page and go back to the terminal.\n" : "There is nothing here.\n");
    if (isBack) arrived.resolve(searchParams);
  });
  const signal = AbortSignal.any([context.signal, AbortSignal.timeout(browserTimeoutMs)]);
  signal.addEventListener("abort", () => arrived.reject(signal.reason), { once: true });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const page = signIn.githubUrl(`http://127.0.0.1:${port}/signed-in`, challenge);
    await context.note("open this page in a browser on this machine:");
    await context.print(page);
    const answer = await arrived.promise;
    const code = answer.get("code");
    if (code === null) {
      throw new RoostError(errorCodeOf(answer.get("error")), printable(answer.get("error_description") ?? "the platform signed nobody in"));
    }
    return await signIn.exchange(code, verifier, { signal: context.signal });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const errorCodeOf = (code: string | null) => (code !== null && /^[a-z_]{1,64}$/.test(code) ? code : "login_failed");

/** The kept session goes also when the platform cannot be reached or has ended it. */
export async function logout(context: CommandContext): Promise<number> {
  const { io, signal } = context;
  const session = await context.session();
  if (session === undefined) {
    await context.note("nobody is signed in");
    return exitCodes.ok;
  }
  try {
    await (await context.client()).account.logout({ signal });
  } catch (error) {
    const isOver = error instanceof RoostError && error.code === "api_key_invalid";
    if (!isOver) await context.warn(`the platform was not told: ${printable(error instanceof Error ? error.message : String(error))}`);
  }
  await removeSession(io.environment);
  if (context.isJson) await context.printJson({ url: session.url, email: session.email });
  else await context.note(`signed out of ${session.url}`);
  return exitCodes.ok;
}
