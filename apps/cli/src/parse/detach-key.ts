import { UsageError } from "../failure.ts";

/** `ctrl-]` as the byte a terminal sends for it; undefined for `none`. */
export function parseDetachKey(text: string): number | undefined {
  if (text === "none") return undefined;
  const match = /^(?:ctrl-|\^)([a-z@[\\\]^_])$/i.exec(text);
  if (match?.[1] === undefined)
    throw new UsageError(`${JSON.stringify(text)} is not a key`, "write --detach-key ctrl-] or --detach-key none");
  return match[1].toUpperCase().charCodeAt(0) & 0x1f;
}
