import { randomBytes } from "node:crypto";

export const requestIdHeader = "x-request-id";

/** The caller's own id where it is a harmless word, else a new one. It is in the answer and in every log line. */
export function requestIdOf(given: string | readonly string[] | undefined): string {
  if (typeof given === "string" && /^[A-Za-z0-9._-]{1,64}$/.test(given)) return given;
  return `req_${randomBytes(8).toString("hex")}`;
}
