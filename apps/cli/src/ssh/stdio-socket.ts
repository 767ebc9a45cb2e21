import { Duplex } from "node:stream";

import type { Io } from "../io.ts";

/** Standard input and output as one connection. */
export function stdioSocket({ stdin, stdout }: Pick<Io, "stdin" | "stdout">): Duplex {
  return Duplex.from({ readable: stdin, writable: stdout });
}
