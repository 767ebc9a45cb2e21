/**
 * A Node program that answers questions of DNS for IPv4 addresses of these names, by UDP on port 53 of an address, for a test to run where it likes (in a namespace): prints `ready`.
 * Other names are there, and have no address.
 */
export function nameServerScript(address: string, names: Readonly<Record<string, string>>): string {
  return `
const names = ${JSON.stringify(names)};
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (message, from) => {
  const labels = [];
  let at = 12;
  for (; message[at] > 0; at += message[at] + 1) labels.push(message.toString("latin1", at + 1, at + 1 + message[at]));
  const type = message.readUInt16BE(at + 1);
  const address = type === 1 ? names[labels.join(".").toLowerCase()] : undefined;
  const head = Buffer.from([message[0], message[1], 0x81, 0x80, 0, 1, 0, address === undefined ? 0 : 1, 0, 0, 0, 0]);
  const record = address === undefined ? [] : [Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split(".").map(Number)])];
  socket.send(Buffer.concat([head, message.subarray(12, at + 5), ...record]), from.port, from.address);
});
socket.bind(53, ${JSON.stringify(address)}, () => console.log("ready"));
`;
}
