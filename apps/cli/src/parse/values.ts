import { InvalidArgumentError } from "commander";

/** Parsers of option values; what they throw becomes commander's message about the option. */

const secondsPer: Readonly<Record<string, number>> = { "": 1, s: 1, m: 60, min: 60, h: 3600, d: 86_400 };

/** `90`, `90s`, `5m`, `2h` or `1d` in `s`. */
export function parseSeconds(text: string): number {
  const match = /^(\d+)\s*(s|m|min|h|d)?$/.exec(text.trim());
  const factor = secondsPer[match?.[2] ?? ""];
  if (match === null || factor === undefined) throw new InvalidArgumentError("Write seconds, or a number with s, m, h or d, such as 5m.");
  return Number(match[1]) * factor;
}

/** `1024`, `512m` or `2g` in `MiB`. */
export function parseMemory(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(m|g)?(?:i?b)?$/i.exec(text.trim());
  if (match === null) throw new InvalidArgumentError("Write MiB, or a number with m or g, such as 2g.");
  const mib = Number(match[1]) * (match[2]?.toLowerCase() === "g" ? 1024 : 1);
  if (!Number.isInteger(mib)) throw new InvalidArgumentError("This is not a whole number of MiB.");
  return mib;
}

export function parseInteger(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("Write a whole number.");
  return Number(text);
}

/** Collects what may be given several times. */
export function parseRepeated(text: string, before: readonly string[] = []): readonly string[] {
  if (text.trim() === "") throw new InvalidArgumentError("It is empty.");
  return [...before, text.trim()];
}

/** Collects repeated `key=value`. */
export function parsePair(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf("=");
  if (at <= 0) throw new InvalidArgumentError("Write it as KEY=VALUE.");
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** Like `parsePair`; a name alone takes its value from our own environment. */
export function parseEnvironment(environment: Readonly<Record<string, string | undefined>>) {
  return (text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> => {
    if (text.includes("=")) return parsePair(text, before);
    const value = environment[text];
    if (value === undefined) throw new InvalidArgumentError(`${text} is not set in your environment; write ${text}=VALUE.`);
    return { ...before, [text]: value };
  };
}
