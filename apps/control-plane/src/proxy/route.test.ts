import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { isPublicGuestAgentPath } from "./guest-agent-paths.ts";
import { routeRequest } from "./route.ts";

const id = "i0123456789abcdefghij";
const byHost = (host: string, target = "/") => routeRequest("GET", target, { host });
const byHeaders = (sandboxId: string | undefined, port: string | undefined, target = "/") =>
  routeRequest("GET", target, {
    host: "127.0.0.1:7070",
    ...(sandboxId === undefined ? {} : { "e2b-sandbox-id": sandboxId }),
    ...(port === undefined ? {} : { "e2b-sandbox-port": port }),
  });

describe("by headers", () => {
  test("id and port", () => {
    expect(byHeaders(id, "49983", "/health")).toEqual({ kind: "sandbox", sandboxId: id, port: 49_983, by: "headers" });
    expect(byHeaders(id, "1")).toMatchObject({ port: 1 });
    expect(byHeaders(id, "65535")).toMatchObject({ port: 65_535 });
  });

  test("win over the host name and over a signature", () => {
    const headers = { host: `3000-${id}.example.org`, "e2b-sandbox-id": "other", "e2b-sandbox-port": "80" };
    expect(routeRequest("GET", "/files?path=x&signature=v1_y", headers)).toMatchObject({ sandboxId: "other", port: 80 });
  });

  test.each([
    ["no port", id, undefined],
    ["no id", undefined, "80"],
    ["an empty id", "", "80"],
    ["upper case", "ABC", "80"],
    ["a dash", "a-b", "80"],
    ["two ids", `${id}, ${id}`, "80"],
    ["an id that is too long", "a".repeat(41), "80"],
    ["a path as id", "../x", "80"],
    ["port 0", id, "0"],
    ["port 65536", id, "65536"],
    ["a leading zero", id, "080"],
    ["a sign", id, "+80"],
    ["a fraction", id, "80.0"],
    ["hex", id, "0x50"],
    ["no number", id, "http"],
    ["two ports", id, "80, 81"],
    ["an empty port", id, ""],
  ])("%s is refused", (_what, sandboxId, port) => {
    expect(byHeaders(sandboxId, port)).toMatchObject({ kind: "invalid", message: expect.stringMatching(/^E2b-Sandbox-/) });
  });
});

describe("by host name", () => {
  test.each([
    [`3000-${id}.example.org`, 3000],
    [`49983-${id}.sandbox.example.org:7070`, 49_983],
    [`8080-${id.toUpperCase()}.Example.ORG`, 8080],
    [`8080-${id}.localhost`, 8080],
    [`8080-${id}-6532622b.example.org`, 8080],
  ])("%s", (host, port) => {
    expect(byHost(host)).toEqual({ kind: "sandbox", sandboxId: id, port, by: "host" });
  });

  test.each([
    "127.0.0.1:7070",
    "localhost",
    "[::1]:7070",
    "example.org",
    "api.example.org",
    id,
    `3000-${id}`,
    `${id}.example.org`,
    `x3000-${id}.example.org`,
    `3000-${id}.`,
    `3000-${id}..`,
    `3000_${id}.example.org`,
    `3000-${id}-a-b.example.org`,
    "123456-abc.example.org",
    "",
  ])("%s is the control plane", (host) => {
    expect(byHost(host)).toEqual({ kind: "control" });
  });

  test.each([`0-${id}.example.org`, `65536-${id}.example.org`, `08080-${id}.example.org`, `80-${"a".repeat(41)}.example.org`])(
    "%s is refused",
    (host) => {
      expect(byHost(host)).toMatchObject({ kind: "invalid" });
    },
  );

  test("without a Host it is the control plane", () => {
    expect(routeRequest("GET", "/v1/sandboxes", {})).toEqual({ kind: "control" });
  });
});

describe("by signature", () => {
  test("of /files only", () => {
    const signed = "signature=v1_abc";
    expect(byHost("127.0.0.1", `/files?path=%2Fx&${signed}`)).toEqual({ kind: "signed-file" });
    expect(byHost("127.0.0.1", `/files?${signed}`)).toEqual({ kind: "signed-file" });
    for (const target of [
      "/files",
      "/files?path=x",
      "/files?path=signature%3Dv1",
      `/files/?${signed}`,
      `/v1/files?${signed}`,
      `/x/files?${signed}`,
      `//files?${signed}`,
      `/files%3F${signed}`,
      `/files#?${signed}`,
      `/v1/sandboxes/${id}/files?path=x&${signed}`,
    ]) {
      expect(byHost("127.0.0.1", target), target).toEqual({ kind: "control" });
    }
  });
});

describe("a preflight", () => {
  const preflight = (names: string, method = "OPTIONS", target = "/") =>
    routeRequest(method, target, {
      host: "127.0.0.1:7070",
      "access-control-request-method": "POST",
      "access-control-request-headers": names,
    });

  test.each(["e2b-sandbox-id", "content-type,E2b-Sandbox-Id", "x-own, e2b-sandbox-id , e2b-sandbox-port", "e2b-traffic-access-token"])(
    "for %s is not the control plane's",
    (names) => {
      expect(preflight(names)).toEqual({ kind: "preflight" });
    },
  );

  test("for other headers, or of another method, goes where its request would", () => {
    for (const names of ["", "x-api-key", "x-e2b-sandbox-id", "e2b-sandbox-id-x"]) {
      expect(preflight(names)).toEqual({ kind: "control" });
      expect(preflight(names, "OPTIONS", "/files?signature=v1_x")).toEqual({ kind: "signed-file" });
    }
    expect(preflight("e2b-sandbox-id", "POST")).toEqual({ kind: "control" });
    expect(routeRequest("OPTIONS", "/", { "access-control-request-headers": "e2b-sandbox-id" })).toEqual({ kind: "control" });
  });

  test("for them wins over a host name and a signature, as they will themselves", () => {
    const asked = { "access-control-request-method": "GET", "access-control-request-headers": "e2b-sandbox-id" };
    expect(routeRequest("OPTIONS", "/files?signature=v1_x", { host: `80-${id}.example.org`, ...asked })).toEqual({ kind: "preflight" });
  });
});

test("a target that is a whole URL is refused where it is for a sandbox", () => {
  expect(byHeaders(id, "80", "http://169.254.0.21/init")).toMatchObject({ kind: "invalid" });
  expect(byHost(`80-${id}.example.org`, "*")).toMatchObject({ kind: "invalid" });
  expect(byHost("127.0.0.1", "http://x/v1/sandboxes")).toEqual({ kind: "control" });
});

const idArbitrary = fc.stringMatching(/^[a-z0-9]{1,40}$/);
const portArbitrary = fc.integer({ min: 1, max: 65_535 });
const targetArbitrary = fc.oneof(fc.constant("/v1/sandboxes"), fc.webPath(), fc.string());

test("property: every id and port is found again, by headers and by host name", () => {
  fc.assert(
    fc.property(idArbitrary, portArbitrary, fc.domain(), (sandboxId, port, domain) => {
      expect(byHeaders(sandboxId, String(port))).toMatchObject({ sandboxId, port });
      expect(byHost(`${port}-${sandboxId}.${domain}`)).toMatchObject({ sandboxId, port });
    }),
  );
});

test("property: what neither carries the headers nor such a host name nor a signature is the control plane's", () => {
  fc.assert(
    fc.property(targetArbitrary, fc.oneof(fc.ipV4(), fc.domain(), fc.string()), (target, host) => {
      fc.pre(!/^\d+-/.test(host) && !target.includes("signature"));
      expect(routeRequest("GET", target, { host, "x-api-key": "e2b_00", authorization: "Bearer x" })).toEqual({ kind: "control" });
    }),
  );
});

test("property: whatever the headers say, a route that is taken has an id and a port that are valid", () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), fc.string(), (target, host, sandboxId, port) => {
      const route = routeRequest("GET", target, { host, "e2b-sandbox-id": sandboxId, "e2b-sandbox-port": port });
      if (route.kind !== "sandbox") return;
      expect(route.sandboxId).toMatch(/^[a-z0-9]{1,40}$/);
      expect(route.port).toBeGreaterThan(0);
      expect(route.port).toBeLessThan(65_536);
    }),
  );
});

test("of the guest agent only its public endpoints are reachable, exactly as they are written", () => {
  for (const target of [
    "/health",
    "/metrics?x=/init",
    "/envs",
    "/files?path=/init",
    "/files/compose",
    "/process.Process/Start",
    "/filesystem.Filesystem/ListDir",
  ]) {
    expect(isPublicGuestAgentPath(target), target).toBe(true);
  }
  for (const target of [
    "/",
    "",
    "/init",
    "/prepare",
    "/logs",
    "/freeze",
    "/unfreeze",
    "/collapse",
    "/fsfreeze",
    "/fsthaw",
    "/upgrade",
    "/INIT",
    "/%69nit",
    "//init",
    "/./init",
    "/health/../init",
    "/files/../init",
    "/files/compose/../../init",
    "/health/",
    "/health;/init",
    "/health#/init",
    "/process.Process/",
    "/process.Process/Start/../../init",
    "/process.Process/../init",
    "/Process.process/Start",
    "/other.Service/Start",
    "http://guest/health",
  ]) {
    expect(isPublicGuestAgentPath(target), target).toBe(false);
  }
});
