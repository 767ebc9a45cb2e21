import { nameReading } from "./head-reading.ts";

/** RFC 1035, 4.1: what a question and its answer begin with */
const headBytes = 12;
/** Of a datagram without EDNS */
const questionBytesMax = 512;
const labelBytesMax = 63;

const classInternet = 1;
const typeAddress = 1;
/** RFC 1035, 4.1.4: the name of the question, again */
const pointerToQuestion = 0xc00c;

/** Seconds a guest may remember an answer. It does not matter: the host resolves a name anew for each connection. */
const answerTtlSec = 60;
/** Addresses in one answer: with them it is still shorter than any resolver's limit */
const answersMax = 20;

/** RFC 1035, 4.1.1 */
export const dnsOutcomes = { found: 0, malformed: 1, failed: 2, unknownName: 3, notSupported: 4 } as const;
export type DnsOutcome = keyof typeof dnsOutcomes;

export interface DnsQuestion {
  readonly id: number;
  readonly isRecursionDesired: boolean;
  /** Lower case, without a dot at its end; undefined: none that a policy could have */
  readonly name: string | undefined;
  /** Whether it asks for IPv4 addresses */
  readonly isForAddress: boolean;
  /** As it was asked */
  readonly bytes: Buffer;
}

/**
 * The question of a message; undefined when it is not one that gets an answer. The guest wrote this: every length is checked, and nothing but the name and whether it
 * is for an address is believed. What follows the question (EDNS) is ignored.
 */
export function readQuestion(message: Buffer): DnsQuestion | undefined {
  if (message.length < headBytes || message.length > questionBytesMax) return undefined;
  const flags = message.readUInt16BE(2);
  const isQuestion = (flags & 0xf800) === 0; // neither an answer nor another operation
  if (!isQuestion || message.readUInt16BE(4) !== 1 || message.readUInt16BE(6) !== 0 || message.readUInt16BE(8) !== 0) return undefined;
  const labels: string[] = [];
  let offset = headBytes;
  for (;;) {
    const length = message[offset];
    if (length === undefined || length > labelBytesMax) return undefined; // no pointer either: there is nothing to point to
    offset += 1;
    if (length === 0) break;
    const label = message.toString("latin1", offset, offset + length);
    // A dot within a label would read as two
    if (label.length !== length || label.includes(".")) return undefined;
    labels.push(label);
    offset += length;
  }
  if (offset + 4 > message.length || message.readUInt16BE(offset + 2) !== classInternet) return undefined;
  const reading = nameReading(labels.join("."));
  return {
    id: message.readUInt16BE(0),
    isRecursionDesired: (flags & 0x0100) !== 0,
    name: reading.kind === "name" ? reading.name : undefined,
    isForAddress: message.readUInt16BE(offset) === typeAddress,
    bytes: message.subarray(headBytes, offset + 4),
  };
}

/** The answer to a question; `found` without addresses says that the name is there, but has no such record. */
export function writeAnswer(question: DnsQuestion, outcome: DnsOutcome, addresses: readonly string[] = []): Buffer {
  const answers = addresses.slice(0, answersMax);
  const head = Buffer.alloc(headBytes);
  head.writeUInt16BE(question.id, 0);
  head.writeUInt16BE(0x8080 | (question.isRecursionDesired ? 0x0100 : 0) | dnsOutcomes[outcome], 2); // an answer, recursion available
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(answers.length, 6);
  return Buffer.concat([head, question.bytes, ...answers.map(addressRecord)]);
}

function addressRecord(address: string): Buffer {
  const record = Buffer.alloc(16);
  record.writeUInt16BE(pointerToQuestion, 0);
  record.writeUInt16BE(typeAddress, 2);
  record.writeUInt16BE(classInternet, 4);
  record.writeUInt32BE(answerTtlSec, 6);
  record.writeUInt16BE(4, 10);
  Buffer.from(address.split(".").map(Number)).copy(record, 12);
  return record;
}
