import { randomBytes } from "node:crypto";

/** Characters of a team's name that become its slug's; the rest of it tells apart teams of the same name */
const readableLengthMax = 40;

/** A namespace for a team's public templates: of its name, with something random behind it. */
export function newSlug(name: string): string {
  const readable = name
    .normalize("NFKD")
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .slice(0, readableLengthMax)
    .replaceAll(/^-+|-+$/g, "");
  return `${readable === "" ? "team" : readable}-${randomBytes(4).toString("hex")}`;
}
