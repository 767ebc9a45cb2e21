import fc from "fast-check";
import { expect, test } from "vitest";

import { dnsQuery } from "../testing/dns-query.ts";
import { dnsOutcomes, readQuestion, writeAnswer } from "./dns-message.ts";
import { must } from "@roost/kit";

test("the name of a question is read, in lower case, and whether it is for an address", () => {
  expect(readQuestion(dnsQuery("WWW.Example.COM"))).toMatchObject({ id: 7, name: "www.example.com", isForAddress: true });
  expect(readQuestion(dnsQuery("example.com", { type: 16 }))).toMatchObject({ name: "example.com", isForAddress: false });
  expect(readQuestion(Buffer.concat([dnsQuery("example.com"), Buffer.from("EDNS, or anything")]))).toMatchObject({ name: "example.com" });
});

test.each(["localhost", "a b.example.com", "1.2.3.4", "é.example.com"])("%s is no name that a policy has", (name) => {
  expect(readQuestion(dnsQuery(name))?.name).toBeUndefined();
});

test("what is no question gets no answer", () => {
  const query = dnsQuery("example.com");
  const with16 = (value: number, offset: number) => {
    const changed = Buffer.from(query);
    changed.writeUInt16BE(value, offset);
    return changed;
  };
  const wrong = [
    Buffer.alloc(0),
    query.subarray(0, 11),
    query.subarray(0, -1),
    with16(0x8100, 2), // an answer
    with16(0x2800, 2), // an update
    with16(2, 4), // two questions
    with16(0, 4),
    with16(1, 6), // with answers
    with16(1, 8),
    with16(3, query.length - 2), // CHAOS
    Buffer.concat([query, Buffer.alloc(512)]),
    Buffer.concat([query.subarray(0, 12), Buffer.from([0xc0, 12, 0, 1, 0, 1])]), // a pointer to itself
    Buffer.concat([
      query.subarray(0, 12),
      Buffer.from([11, ..."example.com".split("").map((letter) => letter.charCodeAt(0)), 0, 0, 1, 0, 1]),
    ]), // one label with a dot
  ];
  expect(wrong.map(readQuestion)).toEqual(wrong.map(() => undefined));
});

test("an answer repeats the question, and has what was found", () => {
  const question = must(readQuestion(dnsQuery("example.com")), "a question");
  const answer = writeAnswer(question, "found", ["192.0.2.1", "192.0.2.255"]);
  expect(answer.readUInt16BE(0)).toBe(7);
  expect([answer.readUInt16BE(2) & 0x800f, answer.readUInt16BE(6)]).toEqual([0x8000, 2]);
  expect(answer.subarray(12, 12 + question.bytes.length)).toEqual(dnsQuery("example.com").subarray(12));
  expect([...answer.subarray(-4)]).toEqual([192, 0, 2, 255]);
  expect(writeAnswer(question, "unknownName").readUInt16BE(2) & 15).toBe(dnsOutcomes.unknownName);
  const many = Array.from({ length: 200 }, () => "192.0.2.1");
  expect(writeAnswer(question, "found", many).length).toBeLessThanOrEqual(512);
});

test("whatever a guest sends, reading it throws nothing, and its answer fits a datagram", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.boolean(), (bytes, isHeadRight) => {
      const message = Buffer.from(isHeadRight ? [...dnsQuery("a.b").subarray(0, 12), ...bytes] : bytes);
      const question = readQuestion(message);
      if (question !== undefined) expect(writeAnswer(question, "failed").length).toBeLessThanOrEqual(512);
    }),
  );
});
