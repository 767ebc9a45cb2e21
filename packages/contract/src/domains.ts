/** Two labels at least, and the last is no number: a mistyped address is not a domain. RFC 1035 limits, and `_`, which is in use. */
const domainPattern = /^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** RFC 1035: of a whole name */
export const domainLengthMax = 253;

export function isDomain(text: string): boolean {
  return text.length <= domainLengthMax && domainPattern.test(text);
}

/** Whether a host name is meant by a domain of a policy: the very name, or with `*.` each name below it. Upper and lower case are the same. */
export function matchesDomain(hostName: string, domain: string): boolean {
  const name = hostName.toLowerCase().replace(/\.$/, "");
  return domain.startsWith("*.") ? name.endsWith(domain.slice(1)) : name === domain;
}
