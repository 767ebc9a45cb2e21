import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { startFileServer, type TestFileServer } from "../filesystem/test-file-server.ts";
import { signFile, verifySignature } from "./signature.ts";

test("a signature is v1_ and the unpadded base64 of the SHA-256 of its parts", () => {
  const of = (text: string) => `v1_${createHash("sha256").update(text).digest("base64").replaceAll("=", "")}`;
  const request = { path: "/home/user/a b", operation: "read", username: "user", expiration: undefined } as const;
  expect(signFile(request, "secret")).toBe(of("/home/user/a b:read:user:secret"));
  expect(signFile({ ...request, expiration: 1700000000 }, "secret")).toBe(of("/home/user/a b:read:user:secret:1700000000"));
  expect(signFile({ ...request, operation: "write", username: "" }, "secret")).toBe(of("/home/user/a b:write::secret"));
});

test("any change to a signature is refused with the same words", () => {
  const random = new SeededRandom();
  const request = { path: "f", operation: "read", username: "", expiration: undefined } as const;
  const right = signFile(request, "token");
  expect(() => verifySignature(request, right, "token", 0)).not.toThrow();
  for (let round = 0; round < 500; round += 1) {
    const position = random.integer(right.length);
    const wrong = right.slice(0, position) + random.pick(["", "A", "=", "\u{e9}", " "]) + right.slice(position + random.integer(2));
    if (wrong === right) continue;
    expect(() => verifySignature(request, wrong, "token", 0), `SEED=${random.seed}: ${wrong}`).toThrow(/^invalid signature$/);
  }
});

describe("with an access token", () => {
  let agent: TestFileServer;
  beforeEach(async () => {
    agent = await startFileServer();
    agent.token = "the-token";
    await writeFile(join(agent.home, "f"), "content");
  });
  afterEach(async () => agent[Symbol.asyncDispose]());

  const messageOf = (answer: { status: number; body: Buffer }) => {
    const { code, message } = JSON.parse(answer.body.toString()) as { code: number; message: string };
    expect(code).toBe(answer.status);
    return `${answer.status} ${message}`;
  };
  const signed = (parts: { path: string; operation: "read" | "write"; username?: string; expiration?: number }) => {
    const query = new URLSearchParams({ path: parts.path });
    if (parts.username !== undefined) query.set("username", parts.username);
    if (parts.expiration !== undefined) query.set("signature_expiration", String(parts.expiration));
    query.set("signature", signFile({ ...parts, username: parts.username ?? "", expiration: parts.expiration }, "the-token"));
    return `/files?${query.toString()}`;
  };
  const now = () => Math.floor(Date.now() / 1000);

  test("the header opens, a wrong one does not, whatever else is given", async () => {
    expect((await agent.call("GET", "/files?path=f", { headers: { "x-access-token": "the-token" } })).body.toString()).toBe("content");
    expect(messageOf(await agent.call("GET", signed({ path: "f", operation: "read" }), { headers: { "x-access-token": "wrong" } }))).toBe(
      "401 access token present in header but does not match",
    );
    expect(messageOf(await agent.call("GET", "/files?path=f"))).toBe("401 missing signature query parameter");
  });

  test("a signature opens one file, for one operation, for one user", async () => {
    expect((await agent.call("GET", signed({ path: "f", operation: "read" }))).body.toString()).toBe("content");
    expect((await agent.call("GET", signed({ path: "f", operation: "read", username: "tester" }))).status).toBe(200);
    expect(messageOf(await agent.call("GET", signed({ path: "f", operation: "write" })))).toBe("401 invalid signature");
    expect(messageOf(await agent.call("GET", signed({ path: "f", operation: "read" }).replace("path=f", "path=g")))).toBe(
      "401 invalid signature",
    );
    expect(messageOf(await agent.call("GET", `${signed({ path: "f", operation: "read" })}&username=other`))).toBe("401 invalid signature");
    const octets = { headers: { "content-type": "application/octet-stream" }, body: "new" };
    expect((await agent.call("POST", signed({ path: "g", operation: "write" }), octets)).status).toBe(200);
    expect(messageOf(await agent.call("POST", signed({ path: "g", operation: "read" }), octets))).toBe("401 invalid signature");
  });

  test("a signature ends when it says, and its end cannot be moved", async () => {
    expect((await agent.call("GET", signed({ path: "f", operation: "read", expiration: now() + 600 }))).status).toBe(200);
    expect(messageOf(await agent.call("GET", signed({ path: "f", operation: "read", expiration: now() - 60 })))).toBe(
      "401 signature is already expired",
    );
    const moved = signed({ path: "f", operation: "read", expiration: now() - 60 }).replace(
      /signature_expiration=\d+/,
      `signature_expiration=${now() + 60}`,
    );
    expect(messageOf(await agent.call("GET", moved))).toBe("401 invalid signature");
    const dropped = signed({ path: "f", operation: "read", expiration: now() + 60 }).replace(/signature_expiration=\d+&/, "");
    expect(messageOf(await agent.call("GET", dropped))).toBe("401 invalid signature");
    expect((await agent.call("GET", `/files?path=f&signature=x&signature_expiration=soon`)).status).toBe(400);
  });

  test("compose takes the header only", async () => {
    const body = JSON.stringify({ source_paths: ["f"], destination: "g" });
    expect((await agent.call("POST", `/files/compose?${signed({ path: "g", operation: "write" }).slice(7)}`, { body })).status).toBe(401);
    expect((await agent.call("POST", "/files/compose", { headers: { "x-access-token": "the-token" }, body })).status).toBe(200);
  });
});
