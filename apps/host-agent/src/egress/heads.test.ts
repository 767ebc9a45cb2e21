import fc from "fast-check";
import { expect, test } from "vitest";

import { clientHello } from "../testing/client-hello.ts";
import { readServerName } from "./client-hello.ts";
import { readHttpHost } from "./http-head.ts";

const http = (text: string) => readHttpHost(Buffer.from(text, "latin1"));

test.each([
  ["GET / HTTP/1.1\r\nHost: Example.COM\r\n\r\n", "example.com"],
  ["GET / HTTP/1.1\r\nAccept: */*\r\nhost:example.com:8080 \r\n\r\n", "example.com"],
  ["POST / HTTP/1.0\r\nHOST: a.b.example.com.\r\n\r\nbody", "a.b.example.com"],
  ["GET http://me@Example.com:80/x HTTP/1.1\r\nHost: example.com\r\n\r\n", "example.com"],
  ["GET /?u=http://other.test/ HTTP/1.1\r\nContent-Length: 1\r\nHost: example.com\r\n\r\n", "example.com"],
])("the host of %j is found", (text, name) => {
  expect(http(text)).toEqual({ kind: "name", name });
});

test.each([
  ["", "incomplete"],
  ["GET / HT", "incomplete"],
  ["GET / HTTP/1.1\r\nHost: example.co", "incomplete"],
  ["GET / HTTP/1.1\r\nHost: example.com\r\n", "incomplete"],
  ["nonsense\r\nHost: example.com\r\n", "none"],
  ["GET / HTTP/1.1\r\nAccept: x\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: 203.0.113.5\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: *.example.com\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: evil\0.example.com\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: \r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: example.com\r\nHost: other.test\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: example.com\r\nHOST:other.test\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nHost: example.com\r\nHost : other.test\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nA: b\r\n Host: other.test\r\nHost: example.com\r\n\r\n", "none"],
  ["GET / HTTP/1.1\r\nA: b\nHost: other.test\r\nHost: example.com\r\n\r\n", "none"],
  ["GET http://other.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "none"],
  ["GET http://example.com@other.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "none"],
  ["CONNECT other.test:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "none"],
  ["POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n", "none"],
  ["POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\n", "none"],
  ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "none"],
  ["SSH-2.0-OpenSSH_9.9\r\n", "none"],
  ["\x16\x03\x01", "none"],
])("%j is %s", (text, kind) => {
  expect(http(text).kind).toBe(kind);
});

test("the name in a TLS greeting is found when it is complete, however it is cut", async () => {
  const hello = await clientHello("Shop.Example.com");
  const found = { kind: "name", name: "shop.example.com" };
  for (let length = 0; length < hello.length; length += 1)
    expect(readServerName(hello.subarray(0, length)), `${length} bytes`).toEqual({ kind: "incomplete" });
  expect(readServerName(hello)).toEqual(found);
  expect(readServerName(Buffer.concat([hello, Buffer.from([23, 3, 3, 0, 1, 0])])).kind, "what follows is no handshake").toBe("none");
  // The same greeting in three records
  const content = hello.subarray(5);
  const records = [content.subarray(0, 2), content.subarray(2, 100), content.subarray(100)].map((part) =>
    Buffer.concat([Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part]),
  );
  expect(readServerName(Buffer.concat(records))).toEqual(found);
});

test("a TLS greeting without a name, or another protocol, has none", async () => {
  expect(readServerName(await clientHello())).toMatchObject({ kind: "none", why: expect.stringContaining("SNI") as string });
  expect(readServerName(Buffer.from("GET / HTTP/1.1\r\n")).kind).toBe("none");
  expect(readServerName(Buffer.from([22, 3, 1, 0, 0])).kind, "an empty record").toBe("none");
  expect(readServerName(Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0])).kind, "a ServerHello").toBe("none");
  expect(readServerName(Buffer.from([22, 3, 1, 0, 4, 1, 255, 255, 255])).kind, "16 MiB announced").toBe("none");
});

test("whatever bytes a guest sends, reading them ends with an answer, and a name is one of DNS", async () => {
  const hello = await clientHello("www.example.com");
  const changed = fc
    .array(fc.tuple(fc.nat(hello.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 })
    .map((changes) => changes.reduce((bytes, [at, value]) => (bytes.writeUInt8(value, at), bytes), Buffer.from(hello)));
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    changed,
  );
  fc.assert(
    fc.property(anything, (bytes) => {
      for (const read of [readServerName, readHttpHost]) {
        const reading = read(bytes);
        expect(["incomplete", "name", "none"]).toContain(reading.kind);
        if (reading.kind === "name") expect(reading.name).toMatch(/^[a-z0-9_.-]+$/);
      }
    }),
    { numRuns: 2_000 },
  );
});
