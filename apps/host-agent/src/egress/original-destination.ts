import type { Socket } from "node:net";

import koffi from "koffi";

import { parseAddress } from "../network/address-block.ts";

export interface Destination {
  readonly address: number;
  readonly port: number;
}

/** <linux/netfilter_ipv4.h> */
const solIp = 0;
const soOriginalDst = 80;
/** A `struct sockaddr_in`: family, port, address, padding */
const socketAddressBytes = 16;

type GetSocketOption = (descriptor: number, level: number, name: number, value: Buffer, length: Buffer) => number;

let loaded: GetSocketOption | undefined;

function getSocketOption(): GetSocketOption {
  loaded ??= koffi.load("libc.so.6").func("getsockopt", "int", ["int", "int", "int", "uint8_t *", "uint8_t *"]) as GetSocketOption;
  return loaded;
}

/**
 * Where a connection was going that the kernel diverted to us; undefined when it was not diverted, or is gone. The kernel tells by a socket option
 * (SO_ORIGINAL_DST) that Node has no door to, neither to the option nor, in its public interface, to the descriptor.
 */
export function originalDestination(socket: Socket): Destination | undefined {
  const descriptor = (socket as { readonly _handle?: { readonly fd?: number } | null })._handle?.fd;
  if (descriptor === undefined || descriptor < 0) return undefined;
  const value = Buffer.alloc(socketAddressBytes);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(socketAddressBytes);
  if (getSocketOption()(descriptor, solIp, soOriginalDst, value, length) !== 0) return undefined;
  const destination = { address: value.readUInt32BE(4), port: value.readUInt16BE(2) };
  const isOurs = destination.address === parseAddress(socket.localAddress ?? "") && destination.port === socket.localPort;
  return isOurs ? undefined : destination;
}
