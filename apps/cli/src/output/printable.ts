/**
 * Text from a guest, made safe to show: escape sequences could otherwise rewrite the screen, set the title or answer
 * into the shell. Tabs stay, everything else that is not printable becomes `\xNN`.
 */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what this is about
  return text.replaceAll(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}
