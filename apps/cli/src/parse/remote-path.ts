import { UsageError } from "../failure.ts";

export type CopyEnd =
  | { readonly kind: "remote"; readonly sandbox: string; readonly path: string }
  | { readonly kind: "local"; readonly path: string }
  /** standard input or output */
  | { readonly kind: "stream" };

/** `ID:path` is in a sandbox, `-` is standard input or output, everything else is here (`./a:b` for odd names). */
export function parseCopyEnd(text: string): CopyEnd {
  if (text === "-") return { kind: "stream" };
  const match = /^([a-z0-9]{1,40}):(.*)$/s.exec(text);
  if (match === null) {
    if (text === "") throw new UsageError("a path is empty");
    return { kind: "local", path: text };
  }
  return { kind: "remote", sandbox: match[1] ?? "", path: match[2] === undefined || match[2] === "" ? "." : match[2] };
}
