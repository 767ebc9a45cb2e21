const S_IFMT = 0o170000;

/** First letter, as ls(1) has it. */
const kinds: Readonly<Record<number, string>> = {
  0o040000: "d",
  0o120000: "l",
  0o060000: "b",
  0o020000: "c",
  0o010000: "p",
  0o140000: "s",
};

/** `-rw-r--r--` of 0o100644, as ls(1) writes it. */
export function permissionText(mode: number): string {
  const triple = (bits: number, special: boolean, letter: string) =>
    (bits & 4 ? "r" : "-") + (bits & 2 ? "w" : "-") + (special ? (bits & 1 ? letter : letter.toUpperCase()) : bits & 1 ? "x" : "-");
  return (
    (kinds[mode & S_IFMT] ?? "-") +
    triple((mode >> 6) & 7, (mode & 0o4000) !== 0, "s") +
    triple((mode >> 3) & 7, (mode & 0o2000) !== 0, "s") +
    triple(mode & 7, (mode & 0o1000) !== 0, "t")
  );
}
