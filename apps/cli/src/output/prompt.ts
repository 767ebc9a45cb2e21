import { once } from "node:events";
import { createInterface } from "node:readline";
import { Writable } from "node:stream";

import { InterruptedError, UsageError } from "../failure.ts";
import type { Io } from "../io.ts";
import { write } from "./write.ts";

/** Characters of one answer that are taken */
const answerLengthMax = 4096;

/** Asks on the terminal; `isSecret`: what is typed is not shown. Without a terminal there is nobody to ask: `instead` says what to do. */
export async function ask(io: Io, question: string, options: { readonly isSecret?: boolean; readonly instead: string }): Promise<string> {
  if (io.stdin.isTTY !== true) throw new UsageError(`${question.replace(/:\s*$/, "")} is needed`, options.instead);
  await write(io.stderr, question);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: io.stdin, output: options.isSecret === true ? nowhere : io.stderr, terminal: true });
  try {
    const interrupted = once(lines, "SIGINT").then(() => {
      throw new InterruptedError("SIGINT");
    });
    const [answer] = (await Promise.race([once(lines, "line"), once(lines, "close"), interrupted])) as [string?];
    if (answer === undefined) throw new UsageError(`${question.replace(/:\s*$/, "")} was not given`);
    return answer.slice(0, answerLengthMax);
  } finally {
    lines.close();
    if (options.isSecret === true) await write(io.stderr, "\n");
  }
}

/** All of standard input, without the line's end: for programs that hand over a password. */
export async function readStdin(io: Io): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of io.stdin as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > answerLengthMax) throw new UsageError(`standard input has more than the ${answerLengthMax} bytes that a password may have`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
}
