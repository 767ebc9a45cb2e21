import nodeAssert from "node:assert/strict";

/** Fails for programmer errors: what cannot be. Never for input from a guest, a user or a disk. */
export function assert(condition: unknown, what: string): asserts condition {
  nodeAssert(condition, what);
}

/** The value, where its absence would be a programmer error. Use instead of `!`. */
export function must<T>(value: T | null | undefined, what: string): T {
  assert(value !== null && value !== undefined, `must exist: ${what}`);
  return value;
}

/** Stands at the end of a `switch` over a union; a new member fails to compile here. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
