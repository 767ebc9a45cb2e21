import { PlatformError } from "@roost/contract";

/** What is wrong is the image, and trying again will not help. `message` says what to do. */
export function unusable(message: string, detail?: string, cause?: unknown): PlatformError {
  return new PlatformError("image_unusable", message, {
    ...(detail === undefined ? {} : { detail }),
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Text that a stranger wrote, for a message: short, and printable. */
export function quoted(text: string, lengthMax = 120): string {
  const printable = text.replaceAll(/[^\x20-\x7e]/g, "?");
  return `'${printable.length > lengthMax ? `${printable.slice(0, lengthMax)}…` : printable}'`;
}
