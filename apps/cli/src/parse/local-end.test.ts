import { expect, test } from "vitest";

import { parseLocalEnd } from "./local-end.ts";

test.each([
  ["", "127.0.0.1", 0],
  ["8080", "127.0.0.1", 8080],
  ["0", "127.0.0.1", 0],
  ["127.0.0.1:8080", "127.0.0.1", 8080],
  ["127.0.0.2", "127.0.0.2", 0],
  ["localhost:80", "127.0.0.1", 80],
  ["[::1]:80", "::1", 80],
])("%j is %s, port %i", (text, address, port) => {
  expect(parseLocalEnd(text, false)).toEqual({ address, port });
});

test.each(["80a", "65536", "example.org:80", "::1:80", "127.0.0.1:", "256.0.0.1:80", "[::1", "-1", "1:2"])("%j is nothing", (text) => {
  expect(() => parseLocalEnd(text, true)).toThrow("is no address to listen on");
});

test.each(["0.0.0.0:80", "192.168.1.5:80", "[::]:80"])("%s is for those who say so", (text) => {
  expect(() => parseLocalEnd(text, false)).toThrow("other machines");
  expect(parseLocalEnd(text, true)).toMatchObject({ port: 80 });
});
