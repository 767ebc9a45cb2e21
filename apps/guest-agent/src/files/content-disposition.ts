/**
 * `Content-Disposition` with a file name (RFC 6266): an ASCII fallback in quotes, and the real name in UTF-8
 * (RFC 8187) where the two differ. A name may hold anything but "/" and NUL, so quotes, backslashes, line breaks and
 * letters of any script must not end the header or start another.
 */
export function contentDisposition(name: string): string {
  const fallback = name.replaceAll(/[^\u{20}-\u{7e}]/gu, "_").replaceAll(/["\\%]/g, "_");
  if (fallback === name) return `inline; filename="${name}"`;
  return `inline; filename="${fallback}"; filename*=UTF-8''${encodeExtended(name)}`;
}

/** encodeURIComponent leaves ' ( ) * as they are, which attr-char of RFC 8187 does not allow; lone surrogates it throws on. */
function encodeExtended(name: string): string {
  return encodeURIComponent(name.replaceAll(/\p{Surrogate}/gu, "\u{FFFD}")).replaceAll(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}
