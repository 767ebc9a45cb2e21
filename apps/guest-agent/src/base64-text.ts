const isDigit = (code: number) => code >= 0x30 && code <= 0x39;
const isLetter = (code: number) => (code >= 0x41 && code <= 0x5a) || (code >= 0x61 && code <= 0x7a);

/**
 * Whether a text is base64 with its padding. Without a regular expression: after a restore each costs its compilation, and
 * this is on the way of the first request.
 */
export function isBase64(text: string, alphabet: "base64" | "any"): boolean {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  for (let index = 0; index < text.length - padding; index += 1) {
    const code = text.charCodeAt(index);
    const isUrlCharacter = code === 0x2d || code === 0x5f; // - and _
    if (!isDigit(code) && !isLetter(code) && code !== 0x2b && code !== 0x2f && !(isUrlCharacter && alphabet === "any")) return false;
  }
  return true;
}
