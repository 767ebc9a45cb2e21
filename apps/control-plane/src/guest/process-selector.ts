/** A running process, by pid or by tag. */
export type ProcessSelector = { readonly pid: number } | { readonly tag: string };

/** Largest pid Linux gives out (PID_MAX_LIMIT) */
const pidMax = 2 ** 22;

/** All digits mean a pid; anything else, and numbers no pid can be, a tag. */
export function parseSelector(text: string): ProcessSelector {
  const number = /^[0-9]{1,7}$/.test(text) ? Number(text) : undefined;
  return number !== undefined && number > 0 && number <= pidMax ? { pid: number } : { tag: text };
}

export function selectorOf(selector: ProcessSelector) {
  return "pid" in selector
    ? { selector: { case: "pid" as const, value: selector.pid } }
    : { selector: { case: "tag" as const, value: selector.tag } };
}

export function describeSelector(selector: ProcessSelector): string {
  return "pid" in selector ? `process ${selector.pid}` : `a process tagged "${selector.tag}"`;
}
