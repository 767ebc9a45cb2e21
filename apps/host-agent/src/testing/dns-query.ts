/** A question as resolvers are asked it, with the id 7. `type` 1: IPv4 addresses. */
export function dnsQuery(name: string, { type = 1 }: { readonly type?: number } = {}): Buffer {
  const labels = name.split(".").map((label) => Buffer.concat([Buffer.from([Buffer.byteLength(label)]), Buffer.from(label)]));
  return Buffer.concat([Buffer.from([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), ...labels, Buffer.from([0, 0, type, 0, 1])]);
}
