import { PlatformError, type SignedIn } from "@roost/contract";
import { must, second } from "@roost/kit";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";

import { oauthTimeMs } from "../../accounts/github-sign-ins.ts";
import { viewUser } from "../../accounts/profiles.ts";
import type { Requester } from "../../accounts/requester.ts";
import { isSessionCaller, type SessionCaller } from "../../accounts/session-authenticator.ts";
import type { SignIn } from "../../accounts/sign-ups.ts";
import type { Caller } from "../../accounts/caller.ts";
import { requireSameOrigin } from "../origin.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** Browsers forget the cookie after this in `s`; the session ends when the server says so */
const cookieMaxAgeSec = 90 * 24 * 3600;

/** Signing up, in and out. */
export function addAuthRoutes(app: FastifyInstance, services: Services): void {
  const { accounts, authentication } = services;
  const { signUps, logins, passwordChanges, github, cookies, mails, origins } = accounts;
  const requesterOf = (request: FastifyRequest): Requester => ({
    requestId: request.id,
    address: authentication.addressOf(request.raw),
    client: request.headers["user-agent"] ?? "",
  });
  /** A page of somebody else's must not sign its visitor in, as somebody it knows. */
  const guard = (request: FastifyRequest) => {
    if (request.headers.origin !== undefined) requireSameOrigin(request.headers, origins);
  };
  const handOut = (signIn: SignIn, deliver: "cookie" | "token", reply: FastifyReply): SignedIn => {
    if (deliver === "cookie") cookies.set(reply, "session", signIn.session.token, cookieMaxAgeSec);
    return viewSignIn(signIn, deliver);
  };

  addRoute(app, "signInMethods", 200, async () => ({
    sign_up: signUps.mode,
    is_first: await signUps.isFirst(),
    has_mail: mails.isReal,
    github: github.isAvailable,
  }));
  addRoute(app, "signUp", 201, async ({ body, request, reply }) => {
    guard(request);
    const signIn = await signUps.signUp(body, requesterOf(request));
    if (signIn === undefined) return { state: "confirm", signed_in: null };
    return { state: "signed_in", signed_in: handOut(signIn, body.deliver, reply) };
  });
  addRoute(app, "confirmAddress", 200, async ({ body, request, reply }) => {
    guard(request);
    return handOut(await signUps.confirm(body.token, body.password, requesterOf(request)), body.deliver, reply);
  });
  addRoute(app, "login", 200, async ({ body, request, reply }) => {
    guard(request);
    return handOut(await logins.login(body, requesterOf(request)), body.deliver, reply);
  });
  addRoute(app, "logout", 204, async ({ caller, reply }) => {
    await logins.logout(sessionOf(caller));
    cookies.clear(reply, "session");
  });
  addRoute(app, "askPasswordReset", 202, async ({ body, request }) => {
    guard(request);
    await passwordChanges.askReset(body.email, requesterOf(request));
  });
  addRoute(app, "resetPassword", 204, async ({ body, request }) => {
    guard(request);
    await passwordChanges.reset(body.token, body.new_password, requesterOf(request));
  });

  addRoute(app, "startGithub", 302, async ({ query, request, reply }) => {
    if (query.connect === "1") requireOwnPage(request);
    const caller = query.connect === "1" ? sessionOf(await authentication.identify(request.raw, request.id)) : undefined;
    const { url, browserSecret } = await github.depart(query, caller, requesterOf(request));
    cookies.set(reply, "oauth", browserSecret, oauthTimeMs / second);
    return reply.redirect(url, 302);
  });
  addRoute(app, "finishGithub", 302, async ({ query, request, reply }) => {
    const secret = cookies.read(request.headers, "oauth");
    cookies.clear(reply, "oauth");
    const { url, session } = await github.arrive(query, secret, requesterOf(request));
    if (session !== undefined) cookies.set(reply, "session", session.token, cookieMaxAgeSec);
    return reply.redirect(url, 302);
  });
  addRoute(app, "exchangeCode", 200, async ({ body, request }) =>
    viewSignIn(await github.exchange(body.code, body.verifier, requesterOf(request)), "token"),
  );
}

/**
 * A link on another site's page must not connect whoever is signed in at GitHub in this browser to its visitor's account. Browsers say where a link was;
 * what does not say it is no browser that could be misled.
 */
function requireOwnPage({ headers }: FastifyRequest): void {
  const site = headers["sec-fetch-site"];
  if (site === undefined || site === "same-origin" || site === "none") return;
  throw new PlatformError("origin_forbidden", "GitHub is connected to an account from pages of this platform only");
}

/** What `access: "session"` has made sure of. */
export function sessionOf(caller: Caller): SessionCaller {
  return must(isSessionCaller(caller) ? caller : undefined, "a session's caller");
}

function viewSignIn({ user, teamId, session }: SignIn, deliver: "cookie" | "token"): SignedIn {
  return {
    user: viewUser(user),
    team_id: teamId,
    token: deliver === "token" ? session.token : null,
    expires_at: session.row.time_expires.toISOString(),
  };
}
