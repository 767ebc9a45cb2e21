import type { IncomingHttpHeaders } from "node:http";

import { portGrantParameter } from "@roost/contract";
import { parseCookie, stringifySetCookie } from "cookie";

/**
 * How a grant (./port-keys.ts) gets here: in a URL, and from then on in a cookie of that host name. A browser that opens the URL is sent on to the same place without the grant, so that it is
 * in no address bar, history entry or `Referer` of what the page loads. Everything else (programs, web hooks, sockets) is served at once. The guest sees neither parameter nor cookie.
 */
const parameterStart = `${portGrantParameter}=`;
/** Cookies of our name that are tried: a neighbour below the same domain may have set more, but none that is good */
const cookiesTried = 4;
const grantInText = new RegExp(`([?&])${portGrantParameter}=[^&#]*&?`, "g");

/** The request's target, and what was taken out of it. */
export interface GrantedTarget {
  readonly target: string;
  readonly grant: string | undefined;
}

export function takeGrant(target: string): GrantedTarget {
  const start = target.indexOf("?");
  if (start === -1 || !target.includes(parameterStart, start)) return { target, grant: undefined };
  const pieces = target.slice(start + 1).split("&");
  const grant = pieces.find((piece) => piece.startsWith(parameterStart))?.slice(parameterStart.length);
  const query = pieces.filter((piece) => !piece.startsWith(parameterStart)).join("&");
  return { target: target.slice(0, start) + (query === "" ? "" : `?${query}`), grant };
}

/** A browser that opens the URL as a page; programs that only name themselves after one say that they want anything. */
export function isPageVisit(method: string | undefined, headers: IncomingHttpHeaders): boolean {
  if (method !== "GET" && method !== "HEAD") return false;
  const mode = headers["sec-fetch-mode"];
  if (mode !== undefined) return mode === "navigate";
  return headers["user-agent"]?.startsWith("Mozilla/") === true && /\btext\/html\b/.test(headers.accept ?? "");
}

/** A path that begins with two slashes would be another host. */
export function locationOf(target: string): string {
  return /^\/[/\\]/.test(target) ? `/.${target}` : target;
}

/** For this very host name, for all its paths, for no script; and not for what other sites' pages load. */
export function grantCookie(grant: string, isTls: boolean, maxAgeSec: number): string {
  const options = { httpOnly: true, sameSite: "lax", secure: isTls, path: "/", maxAge: maxAgeSec } as const;
  return stringifySetCookie({ name: cookieName(isTls), value: grant, ...options });
}

/**
 * The grants in a request's cookies. Names below one domain count as one site to browsers, so that a page of another sandbox could have a browser send them: a request that says that it comes from
 * elsewhere has none.
 */
export function cookieGrants(headers: IncomingHttpHeaders, sandboxId: string, isTls: boolean): string[] {
  const { cookie } = headers;
  if (cookie === undefined || !cookie.includes(cookieName(isTls)) || comesFromElsewhere(headers, sandboxId)) return [];
  return pairsOf(cookie)
    .filter((pair) => pair.startsWith(`${cookieName(isTls)}=`))
    .slice(0, cookiesTried)
    .map((pair) => parseCookie(pair)[cookieName(isTls)] ?? "");
}

/** A `Cookie` header as the guest gets it; undefined: nothing is left of it. */
export function cookiesForGuest(cookie: string): string | undefined {
  if (!cookie.includes(plainName)) return cookie;
  const kept = pairsOf(cookie).filter((pair) => !pair.startsWith(`${plainName}=`) && !pair.startsWith(`${secureName}=`));
  return kept.length === 0 ? undefined : kept.join("; ");
}

/** A `Referer` as the guest gets it. */
export function refererForGuest(referer: string): string {
  return referer.replaceAll(grantInText, "$1").replace(/[?&](?=#|$)/, "");
}

const plainName = "roost_port";
const secureName = `__Host-${plainName}`;

function cookieName(isTls: boolean): string {
  return isTls ? secureName : plainName;
}

function pairsOf(cookie: string): string[] {
  return cookie.split(";").map((pair) => pair.trim());
}

/** Browsers say `Sec-Fetch-Site`, and older ones at least `Origin` with whatever may change something, and with every socket. Another port of the same sandbox is at home here. */
function comesFromElsewhere(
  { origin, "sec-fetch-site": site, "sec-fetch-mode": mode, host }: IncomingHttpHeaders,
  sandboxId: string,
): boolean {
  if (site === "same-origin" || site === "none") return false;
  if (origin !== undefined) return !isOfSandbox(origin, host, sandboxId);
  // A link that is followed here, which may come from anywhere, as `SameSite=Lax` has it
  return site !== undefined && mode !== "navigate";
}

function isOfSandbox(origin: string, host: string | undefined, sandboxId: string): boolean {
  if (!URL.canParse(origin) || host === undefined) return false;
  const domain = host.toLowerCase().slice(host.indexOf("."));
  return new RegExp(`^\\d{1,5}-${sandboxId}$`).test(new URL(origin).host.slice(0, -domain.length)) && new URL(origin).host.endsWith(domain);
}
