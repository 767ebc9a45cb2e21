/** A text without line ends: what a user or a guest made may hold some. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\r\n]+/g, " ");
}
