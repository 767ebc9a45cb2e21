import { readFile } from "node:fs/promises";

import type { SandboxEgressInput } from "@roost/contract";

import { UsageError } from "../failure.ts";
import type { Io } from "../io.ts";

type Rules = NonNullable<SandboxEgressInput["rules"]>;

const form = /^(?<domain>[^:=]+):(?<name>[^:=]+)=(?<source>env|file):(?<from>.+)$/s;

/**
 * Headers to set, written as `api.example.com:Authorization=env:API_AUTHORIZATION` or `…=file:PATH`, beside those that are there. Values come from the environment or a file, so that they are in no
 * list of processes and in no shell's history; a line's end at the end of a file is not part of one.
 */
export async function headerRules(given: readonly string[], io: Io, present: Rules = {}): Promise<Rules> {
  const rules: Record<string, { headers: Record<string, string> }> = {};
  for (const [domain, { headers }] of Object.entries(present)) rules[domain] = { headers: { ...headers } };
  for (const text of given) {
    const { domain = "", name = "", source = "", from = "" } = form.exec(text)?.groups ?? {};
    if (domain === "") {
      const shown = text.slice(0, text.includes("=") ? text.indexOf("=") : 0); // what follows may be the value itself
      throw new UsageError(`--header ${shown}…: write it as DOMAIN:NAME=env:VARIABLE or DOMAIN:NAME=file:PATH`);
    }
    const value = source === "env" ? io.environment[from] : (await readFile(from, "utf8")).replace(/\r?\n$/, "");
    if (value === undefined || value === "")
      throw new UsageError(`--header ${domain}:${name}: ${from} is not set in your environment, or empty`);
    (rules[domain] ??= { headers: {} }).headers[name] = value;
  }
  return rules;
}
