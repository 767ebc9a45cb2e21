import { expect, test } from "vitest";

import { formatReference, isLoopback, parseReference } from "./reference.ts";

const digest = `sha256:${"a".repeat(64)}`;

test.each([
  ["debian", "docker.io", "docker.io/library/debian:latest"],
  ["debian:12-slim", "docker.io", "docker.io/library/debian:12-slim"],
  ["team/app", "docker.io", "docker.io/team/app:latest"],
  ["docker.io/library/debian:12", "docker.io", "docker.io/library/debian:12"],
  ["localhost/app", "localhost", "localhost/app:latest"],
  ["127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000", "127.0.0.1:5000/a/b/c:v1"],
  [`registry.example.com/team/app:v1@${digest}`, "registry.example.com", `registry.example.com/team/app@${digest}`],
])("%s is at %s", (text, registry, formatted) => {
  const reference = parseReference(text);
  expect(reference.registry).toBe(registry);
  expect(formatReference(reference)).toBe(formatted);
});

test.each([
  "",
  "-x",
  "Debian",
  "a b",
  "https://example.com/x",
  "example.com:/x",
  `debian@${digest}@${digest}`,
  "debian@sha256:12",
  "a:b:c",
  "registry.example.com/",
])("%j is no reference", (text) => expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: "request_invalid" })));

test("loopback is this machine, and no name that looks like it", () => {
  expect(["localhost", "localhost:5000", "127.0.0.1:1", "127.3.2.1"].map(isLoopback)).toEqual([true, true, true, true]);
  expect(["localhost.example.com", "127.0.0.1.example.com", "1270.0.0.1", "docker.io"].map(isLoopback)).toEqual([
    false,
    false,
    false,
    false,
  ]);
});
