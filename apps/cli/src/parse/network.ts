import { readFile } from "node:fs/promises";

import type { SandboxEgressInput } from "@roost/contract";

import { UsageError } from "../failure.ts";
import type { Io } from "../io.ts";
import { readStdin } from "../output/prompt.ts";
import { headerRules } from "./header-rules.ts";

/** What options say about a sandbox's network; each that is absent is as if nothing was said. */
export interface NetworkOptions {
  /** A file with the whole policy as the API has it, or `-` */
  readonly policy?: string;
  /** commander's form of `--no-internet` */
  readonly internet?: boolean;
  readonly allow?: readonly string[];
  readonly deny?: readonly string[];
  readonly outMbit?: number;
  readonly inMbit?: number;
  readonly connections?: number;
  readonly connectionsPerSec?: number;
  /** `DOMAIN:NAME=env:VARIABLE` or `=file:PATH` */
  readonly header?: readonly string[];
}

/** The policy that options ask for; undefined when they say nothing. What else they say comes on top of a file. */
export async function networkInput(options: NetworkOptions, io: Io): Promise<SandboxEgressInput | undefined> {
  const { policy, internet, allow, deny, outMbit, inMbit, connections, connectionsPerSec, header } = options;
  const base = policy === undefined ? {} : await readPolicy(policy, io);
  const limits = {
    ...base.limits,
    ...(outMbit !== undefined && { out_mbit_per_sec: outMbit }),
    ...(inMbit !== undefined && { in_mbit_per_sec: inMbit }),
    ...(connections !== undefined && { connections }),
    ...(connectionsPerSec !== undefined && { connections_per_sec: connectionsPerSec }),
  };
  const input = {
    ...base,
    ...(internet === false && { allow_internet: false }),
    ...(allow !== undefined && { allow_out: [...allow] }),
    ...(deny !== undefined && { deny_out: [...deny] }),
    ...(Object.keys(limits).length > 0 && { limits }),
    ...(header !== undefined && { rules: await headerRules(header, io, base.rules) }),
  };
  return policy === undefined && Object.keys(input).length === 0 ? undefined : input;
}

/** From a file, so that a proxy's password and values of headers are in no list of processes. The platform checks the rest. */
async function readPolicy(path: string, io: Io): Promise<SandboxEgressInput> {
  const json = path === "-" ? await readStdin(io) : await readFile(path, "utf8");
  try {
    const parsed: unknown = JSON.parse(json);
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)) return parsed;
  } catch {
    // said below, without its content
  }
  throw new UsageError(
    `${path === "-" ? "the input" : path} is no network policy: it must be a JSON object, such as {"allow_internet": false}`,
  );
}
