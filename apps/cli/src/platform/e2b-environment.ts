import { CliError } from "../failure.ts";
import { apiKeyPath, type Access } from "../settings.ts";

/** Shells whose syntax for exports differs; `sh` is that of bash and zsh, too. */
export const exportShells = ["sh", "fish"] as const;
export type ExportShell = (typeof exportShells)[number];

/** What the E2B SDK and CLI read from the environment; nothing else is needed to have them use this platform. */
export interface E2bEnvironment {
  readonly E2B_API_KEY: string;
  readonly E2B_API_URL: string;
  readonly E2B_SANDBOX_URL: string;
}

/**
 * One port serves both of E2B's planes. E2B's tools want keys that begin with `e2b_`: the same digits are the same key. Throws for an address with a
 * path, which the SDK leaves out of the URLs of files.
 */
export function e2bEnvironment({ url, apiKey }: Access): E2bEnvironment {
  const { origin, pathname } = new URL(url);
  if (pathname !== "/") {
    throw new CliError(`E2B's SDK cannot use ${url}: it drops the path of an address where it makes URLs of files`, {
      hint: "give the platform a host name or port of its own",
    });
  }
  return { E2B_API_KEY: apiKey.replace(/^roost_/, "e2b_"), E2B_API_URL: origin, E2B_SANDBOX_URL: origin };
}

/** Lines for a shell to evaluate. */
export function formatExports(environment: E2bEnvironment, shell: ExportShell): string {
  const write = shell === "fish" ? "set -gx " : "export ";
  const assign = shell === "fish" ? " " : "=";
  return Object.entries(environment)
    .map(([name, value]: [string, string]) => `${write}${name}${assign}${quoted(value, shell)}`)
    .join("\n");
}

/** The same for `sh` with the key read from its file when they are evaluated: for places that others may read, such as a log. */
export function formatExportsWithoutKey(dir: string, url: string): string {
  const lines = formatExports(e2bEnvironment({ url, apiKey: "" }), "sh")
    .split("\n")
    .slice(1);
  return [`export E2B_API_KEY="$(sed s/^roost_/e2b_/ ${quoted(apiKeyPath(dir), "sh")})"`, ...lines].join("\n");
}

function quoted(text: string, shell: ExportShell): string {
  if (/^[\w@%+:,./-]+$/.test(text)) return text;
  return shell === "fish" ? `'${text.replaceAll(/[\\']/g, "\\$&")}'` : `'${text.replaceAll("'", `'\\''`)}'`;
}
