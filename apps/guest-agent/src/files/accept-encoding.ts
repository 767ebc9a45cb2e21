export type ContentCoding = "gzip" | "identity";

/**
 * The coding to send (RFC 9110, 12.5.3): gzip where the client names it and likes it no less than plain bytes.
 * `"none"` when the client refuses both, which is a 406.
 */
export function chooseCoding(header: string | undefined): ContentCoding | "none" {
  if (header === undefined) return "identity";
  const weights = new Map<string, number>();
  for (const item of header.split(",")) {
    const [coding = "", ...parameters] = item.split(";").map((part) => part.trim().toLowerCase());
    if (coding === "") continue;
    const quality = parameters.find((parameter) => parameter.startsWith("q="))?.slice(2);
    const weight = quality === undefined ? 1 : Number(quality);
    if (weight >= 0 && weight <= 1) weights.set(coding === "x-gzip" ? "gzip" : coding, weight); // other weights are no weights
  }
  const gzip = weights.get("gzip") ?? weights.get("*") ?? 0;
  const plain = weights.get("identity") ?? (weights.get("*") === 0 ? 0 : undefined);
  if (plain === 0) return gzip > 0 ? "gzip" : "none";
  return gzip > 0 && weights.has("gzip") && gzip >= (plain ?? 0) ? "gzip" : "identity";
}
