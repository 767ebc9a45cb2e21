/** How far the files of a build are: read to know what they are, then, where the platform lacks them, packed and sent. In bytes. */
export type FileProgress =
  | { readonly stage: "reading" | "packing"; readonly bytes: number }
  | { readonly stage: "sending"; readonly bytes: number; readonly total: number };

/** Adds up pieces and tells the sum. */
export function adding(tell: (sum: number) => void): (bytes: number) => void {
  let sum = 0;
  return (bytes) => {
    sum += bytes;
    tell(sum);
  };
}
