/**
 * Whether two tokens are equal, in a time that does not depend on how much of them is. Compared here rather than by OpenSSL,
 * whose digests are a lot of code to run for the first time after a restore.
 */
export function sameToken(one: string, other: string): boolean {
  let difference = one.length ^ other.length;
  for (let index = 0; index < one.length; index += 1) difference |= one.charCodeAt(index) ^ other.charCodeAt(index);
  return difference === 0;
}
