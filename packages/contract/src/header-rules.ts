import { z } from "zod";

import { isDomain, matchesDomain } from "./domains.ts";
import { headerNameLengthMax, headerRuleDomainLengthMax, headerRuleDomainsMax, headersPerRuleMax, headerValueLengthMax } from "./limits.ts";

/**
 * Headers that are set on a guest's requests to some domains, on their way out: credentials that the guest itself never has. They are set on HTTPS to port 443 alone, because
 * elsewhere everybody on the way could read them.
 */

/** RFC 9110, 5.6.2 */
const headerNamePattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Of RFC 9110, 5.5, what Node sends as it is: one byte for each character, and no space around it, which receivers cut off */
const headerValuePattern = /^(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?$/;
/** Stands for a value wherever a policy is shown. */
export const redactedValue = "<redacted>";

/** They say where a message ends, or are about one connection; with them a request would be another one than its sender meant. */
const framingHeaders: ReadonlySet<string> = new Set([
  "connection",
  "content-length",
  "expect",
  "host",
  "http2-settings",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "sec-websocket-accept",
  "sec-websocket-extensions",
  "sec-websocket-key",
  "sec-websocket-version",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

const headerNameSchema = z
  .string()
  .min(1)
  .max(headerNameLengthMax)
  .regex(headerNamePattern, "is no name of a header: letters, digits and -")
  .refine(
    (name) => !framingHeaders.has(name.toLowerCase()),
    "cannot be set: it says where a request ends or goes, or is about one connection",
  );

const headerValueSchema = z
  .string()
  .max(headerValueLengthMax)
  .regex(headerValuePattern, "is no value of a header: one line of printable Latin-1 characters, without space around it")
  .refine(
    (value) => !value.includes("${e2b."),
    "placeholders such as ${e2b.identity.tokens.NAME} are not filled in here; give the value itself",
  )
  .refine((value) => value !== redactedValue, "is what stands for a value where a policy is shown; give the value itself");

const areDifferent = (names: readonly string[]) => new Set(names.map((name) => name.toLowerCase())).size === names.length;

export const ruleHeadersSchema = z
  .record(headerNameSchema, headerValueSchema)
  .refine((headers) => Object.keys(headers).length <= headersPerRuleMax, `at most ${headersPerRuleMax} headers`)
  .refine((headers) => areDifferent(Object.keys(headers)), "a header is named twice: upper and lower case are the same");

const headerRuleSchema = z.strictObject({
  headers: ruleHeadersSchema.describe("Set on each request, in place of what the guest sent by these names. Values are never shown again"),
});

const domainKeySchema = z
  .string()
  .max(headerRuleDomainLengthMax)
  .refine((text) => isDomain(text.toLowerCase()), "must be a domain such as api.example.com or *.example.com");

export const headerRulesSchema = z
  .record(domainKeySchema, headerRuleSchema)
  .refine((rules) => Object.keys(rules).length <= headerRuleDomainsMax, `at most ${headerRuleDomainsMax} domains`)
  .refine((rules) => areDifferent(Object.keys(rules)), "a domain is named twice: upper and lower case are the same")
  .transform((rules): HeaderRules => Object.fromEntries(Object.entries(rules).map(([domain, rule]) => [domain.toLowerCase(), rule])))
  .describe(
    "Headers to set on HTTPS requests (port 443) of the guest by domain (`*.` for all below one; the name itself comes before a pattern, a longer pattern before a shorter one). " +
      "They allow nothing: what may be reached is said by the rest of the policy",
  );

export interface HeaderRule {
  /** By name; a value is "" where it is not to be known */
  readonly headers: Readonly<Record<string, string>>;
}
/** By domain. */
export type HeaderRules = Readonly<Record<string, HeaderRule>>;

/** The rule for a host name: the domain itself, or the longest pattern. */
export function findHeaderRule(rules: HeaderRules, hostName: string): HeaderRule | undefined {
  const exact = Object.hasOwn(rules, hostName) ? rules[hostName] : undefined;
  if (exact !== undefined) return exact;
  const [longest] = Object.keys(rules)
    .filter((domain) => domain.startsWith("*.") && matchesDomain(hostName, domain))
    .toSorted((one, other) => other.length - one.length);
  return longest === undefined ? undefined : rules[longest];
}

/** The same rules with other values. */
export function mapHeaderValues(rules: HeaderRules, change: (value: string, domain: string, name: string) => string): HeaderRules {
  return Object.fromEntries(
    Object.entries(rules).map(([domain, { headers }]) => [
      domain,
      { headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, change(value, domain, name)])) },
    ]),
  );
}
