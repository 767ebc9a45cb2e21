import { PlatformError } from "@roost/contract";
import type { z } from "zod";

/** Problems named in one message; a client that has more fixes these first */
const issuesMax = 5;
/** Characters of a value that are repeated to the caller */
const valueLengthMax = 60;
/** Fields whose content is not: it may be, or hold, a password */
const secretFields: ReadonlySet<PropertyKey> = new Set([
  "egressProxy",
  "egress_proxy",
  "rules",
  "bot_token",
  "access_token",
  "password",
  "token",
  "new_password",
  "current_password",
  "invitation",
  "setup_code",
  "code",
  "verifier",
]);

/**
 * Parses what a caller sent; throws `request_invalid` that names each field, the value it had, and what would do.
 * `where` is said for problems of the whole: "the body", "the query".
 */
export function parse<Schema extends z.ZodType>(schema: Schema, input: unknown, where: string): z.output<Schema> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new PlatformError("request_invalid", describeIssues(parsed.error, input, where));
}

export function describeIssues(error: z.ZodError, input: unknown, where: string): string {
  const lines = error.issues.slice(0, issuesMax).map((issue) => describeIssue(issue, input, where));
  const more = error.issues.length - lines.length;
  return lines.join("; ") + (more > 0 ? `; and ${more} more` : "");
}

function describeIssue(issue: z.core.$ZodIssue, input: unknown, where: string): string {
  const field = issue.path.length === 0 ? where : issue.path.map(String).join(".");
  const value = valueAt(input, issue.path);
  if (issue.code === "unrecognized_keys") return `${field}: there is no field ${issue.keys.slice(0, issuesMax).map(quote).join(", ")} here`;
  if (issue.code === "invalid_key") {
    const [why = issue] = issue.issues;
    return `${issue.path.slice(0, -1).map(String).join(".") || where}: ${quote(issue.path.at(-1))} is not accepted: ${lowerFirst(why.message)}`;
  }
  if (value === undefined) return `${field} is missing: ${lowerFirst(issue.message)}`;
  const shown = issue.path.some((key) => secretFields.has(key)) ? "its value" : quote(value);
  return `${field}: ${shown} is not accepted: ${lowerFirst(issue.message)}`;
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

function quote(value: unknown): string {
  const text =
    typeof value === "object" && value !== null
      ? Array.isArray(value)
        ? "an array"
        : "an object"
      : (JSON.stringify(value) ?? String(value));
  return text.length > valueLengthMax ? `${text.slice(0, valueLengthMax)}…` : text;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
