import { isDomain } from "@roost/contract";

/** What the first bytes of a connection say about the name it is for. */
export type HeadReading =
  /** More bytes may tell */
  | { readonly kind: "incomplete" }
  /** Lower case, without a dot at its end */
  | { readonly kind: "name"; readonly name: string }
  /** No name will be found; `why` is for people */
  | { readonly kind: "none"; readonly why: string };

export const incomplete: HeadReading = { kind: "incomplete" };

/** A name as a guest wrote it, where it is one that DNS could know. */
export function nameReading(text: string): HeadReading {
  const name = text.toLowerCase().replace(/\.$/, "");
  return isDomain(name) && !name.startsWith("*") ? { kind: "name", name } : none("it does not ask for a domain by name");
}

export function none(why: string): HeadReading {
  return { kind: "none", why };
}
