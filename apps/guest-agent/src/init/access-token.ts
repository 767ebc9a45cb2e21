import { createHash, timingSafeEqual } from "node:crypto";

/** Whether two tokens are equal, in a time that tells nothing about how much of them is. */
export function sameToken(one: string, other: string): boolean {
  return timingSafeEqual(createHash("sha256").update(one).digest(), createHash("sha256").update(other).digest());
}
