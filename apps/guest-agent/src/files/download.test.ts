import { execFileSync } from "node:child_process";
import { mkdir, readFile, symlink, truncate, writeFile } from "node:fs/promises";
import { get, type IncomingMessage } from "node:http";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { startFileServer, type TestFileServer } from "../filesystem/test-file-server.ts";

let agent: TestFileServer;
const content = Buffer.from(new SeededRandom(7).bytes(300_000));

beforeEach(async () => {
  agent = await startFileServer();
  await writeFile(join(agent.home, "data.bin"), content);
});
afterEach(async () => agent[Symbol.asyncDispose]());

const download = async (path: string, headers: Record<string, string> = {}, method = "GET") =>
  agent.call(method, `/files?path=${encodeURIComponent(path)}`, { headers });
const problemOf = (answer: { status: number; body: Buffer }) => JSON.parse(answer.body.toString()) as { code: number; message: string };

test("a file comes byte-exact, with its length, type, name and tag", async () => {
  const answer = await download("data.bin");
  expect(answer.status).toBe(200);
  expect(answer.body.equals(content)).toBe(true);
  expect(answer.headers).toMatchObject({
    "content-length": "300000",
    "content-type": "application/octet-stream",
    "content-disposition": 'inline; filename="data.bin"',
    "accept-ranges": "bytes",
    vary: "accept-encoding",
    "cache-control": "private, no-cache",
    etag: expect.stringMatching(/^"/),
    "last-modified": expect.stringMatching(/GMT$/),
  });
});

test("HEAD has the headers of GET and no body", async () => {
  const [head, whole] = [await download("data.bin", {}, "HEAD"), await download("data.bin")];
  expect(head.status).toBe(200);
  expect(head.body.length).toBe(0);
  const { date: _headDate, ...headHeaders } = head.headers;
  const { date: _wholeDate, ...wholeHeaders } = whole.headers;
  expect(headHeaders).toEqual(wholeHeaders);
  expect((await download("missing", {}, "HEAD")).status).toBe(404);
});

test("names of every kind arrive, and stay inside their header", async () => {
  for (const name of ["ünï cødé.txt", 'quo"te', "line\nbreak", "100%", "a+b", "#hash?", "'"]) {
    await writeFile(join(agent.home, name), name);
    const answer = await download(name);
    expect(answer.body.toString(), name).toBe(name);
    expect(Object.keys(answer.headers)).not.toContain("break");
  }
});

test("an empty file is an empty 200", async () => {
  await writeFile(join(agent.home, "empty"), "");
  const answer = await download("empty");
  expect([answer.status, answer.body.length, answer.headers["content-length"]]).toEqual([200, 0, "0"]);
});

test.each([
  ["bytes=0-9", 0, 9],
  ["bytes=299990-", 299_990, 299_999],
  ["bytes=-5", 299_995, 299_999],
  ["bytes=100-999999999", 100, 299_999],
])("Range %s is a 206", async (range, start, end) => {
  const answer = await download("data.bin", { range });
  expect(answer.status).toBe(206);
  expect(answer.headers["content-range"]).toBe(`bytes ${start}-${end}/300000`);
  expect(answer.headers["content-length"]).toBe(String(end - start + 1));
  expect(answer.body.equals(content.subarray(start, end + 1))).toBe(true);
});

test("a range outside is a 416 that tells the size; several ranges and nonsense get the whole", async () => {
  const outside = await download("data.bin", { range: "bytes=300000-" });
  expect(outside.status).toBe(416);
  expect(outside.headers["content-range"]).toBe("bytes */300000");
  expect(problemOf(outside).code).toBe(416);
  for (const range of ["bytes=0-1,5-6", "bytes=z", "lines=1-2"]) {
    const answer = await download("data.bin", { range });
    expect([answer.status, answer.body.length], range).toEqual([200, 300_000]);
  }
});

test("a range is never compressed", async () => {
  const answer = await download("data.bin", { range: "bytes=0-9", "accept-encoding": "gzip" });
  expect([answer.status, answer.headers["content-encoding"]]).toEqual([206, undefined]);
});

test("If-Range with the file's tag gets the part, with another the whole", async () => {
  const etag = String((await download("data.bin")).headers.etag);
  expect((await download("data.bin", { range: "bytes=0-9", "if-range": etag })).status).toBe(206);
  expect((await download("data.bin", { range: "bytes=0-9", "if-range": '"other"' })).status).toBe(200);
  await writeFile(join(agent.home, "data.bin"), "changed");
  expect((await download("data.bin", { range: "bytes=0-3", "if-range": etag })).body.toString()).toBe("changed");
});

test("a client that has the file gets a 304 without a body, until it changes", async () => {
  const { headers } = await download("data.bin");
  const known = { "if-none-match": String(headers.etag) };
  const answer = await download("data.bin", known);
  expect([answer.status, answer.body.length, answer.headers.etag]).toEqual([304, 0, headers.etag]);
  expect((await download("data.bin", { "if-modified-since": String(headers["last-modified"]) })).status).toBe(304);
  await writeFile(join(agent.home, "data.bin"), "changed");
  expect((await download("data.bin", known)).status).toBe(200);
});

test("gzip when asked for, and its content is the file's", async () => {
  const text = "all work and no play\n".repeat(10_000);
  await writeFile(join(agent.home, "text.txt"), text);
  const answer = await download("text.txt", { "accept-encoding": "gzip" });
  expect(answer.headers["content-encoding"]).toBe("gzip");
  expect(answer.headers["content-length"]).toBeUndefined();
  expect(answer.body.length).toBeLessThan(text.length / 10);
  expect(gunzipSync(answer.body).toString()).toBe(text);
  const plain = await download("text.txt");
  expect(plain.headers["content-encoding"]).toBeUndefined();
  expect(plain.headers.etag).not.toBe(answer.headers.etag);
  expect((await download("text.txt", { "accept-encoding": "gzip", "if-none-match": String(answer.headers.etag) })).status).toBe(304);
  await writeFile(join(agent.home, "none"), "");
  expect(gunzipSync((await download("none", { "accept-encoding": "gzip" })).body).length).toBe(0);
});

test("a client that accepts nothing we have gets a 406", async () => {
  expect((await download("data.bin", { "accept-encoding": "identity;q=0, br" })).status).toBe(406);
});

test("what is no file: a folder and a device are 400, what is missing is 404", async () => {
  await mkdir(join(agent.home, "folder"));
  for (const path of ["folder", "", "~", "/"])
    expect(problemOf(await download(path)), path).toMatchObject({ code: 400, message: expect.stringContaining("is a directory") });
  expect(problemOf(await download("/dev/null"))).toMatchObject({ code: 400, message: expect.stringContaining("not a regular file") });
  const missing = await download("missing");
  expect(problemOf(missing)).toMatchObject({ code: 404 });
  expect(missing.headers["cache-control"]).toBe("no-store");
  expect(problemOf(await download("data.bin/below"))).toMatchObject({ code: 404 });
  await symlink("loop", join(agent.home, "loop"));
  expect(problemOf(await download("loop"))).toMatchObject({ code: 400 });
});

test("a pipe is refused at once, and does not wait for a writer", async () => {
  execFileSync("mkfifo", [join(agent.home, "pipe")]);
  expect((await download("pipe")).status).toBe(400);
});

test("hostile paths get a 4xx", async () => {
  for (const path of ["a\0b", "../".repeat(2000) + "etc\0", `/${"d/".repeat(2100)}f`, "n".repeat(300), "~root/x"]) {
    const answer = await download(path);
    expect([400, 404], path.slice(0, 20)).toContain(answer.status);
  }
  for (const target of ["/files?path=%ff%fe", "/files?path=%", "/files?path=a&path=b", "/files?=&&&"]) {
    expect([400, 404], target).toContain((await agent.call("GET", target)).status);
  }
});

test("an unknown user is a 401 and never somebody else", async () => {
  expect(problemOf(await agent.call("GET", "/files?path=data.bin&username=ghost"))).toEqual({
    code: 401,
    message: "invalid username: 'ghost'",
  });
  expect((await agent.call("GET", "/files?path=data.bin&username=other")).status).toBe(404); // another home
  expect((await agent.call("GET", "/files?path=data.bin&username=tester")).status).toBe(200);
});

test("other methods are a 405, other paths a 404", async () => {
  const answer = await agent.call("DELETE", "/files?path=data.bin");
  expect([answer.status, answer.headers.allow]).toEqual([405, "GET, HEAD, POST"]);
  expect((await agent.call("GET", "/files/compose")).status).toBe(405);
  expect((await agent.call("GET", "/files/other")).status).toBe(404);
});

test("kernel text, whose size the kernel does not know, comes whole", async () => {
  expect((await download("/proc/version")).body.toString()).toBe(await readFile("/proc/version", "utf8"));
  const cgroups = await download("/proc/self/mountinfo", { "accept-encoding": "gzip", range: "bytes=0-1" });
  expect(cgroups.status).toBe(200);
  expect(cgroups.body.length).toBeGreaterThan(100);
  expect((await download("/sys/kernel/mm/transparent_hugepage/enabled")).body.toString()).toMatch(/\[/);
});

async function open(path: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(`${agent.url}/files?path=${encodeURIComponent(path)}`, { agent: false }, resolve).on("error", reject);
  });
}

test("a file that shrinks while it is sent cuts the connection rather than pretend", async () => {
  const path = join(agent.home, "large");
  await writeFile(path, Buffer.alloc(64 * 1024 * 1024, 1));
  const response = await open("large");
  await truncate(path, 1000);
  let bytes = 0;
  const failure = await new Promise<string>((resolve) => {
    response.on("data", (chunk: Buffer) => (bytes += chunk.length));
    response.on("end", () => resolve("complete"));
    response.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  });
  expect(failure).toBe("ECONNRESET");
  expect(bytes).toBeLessThan(64 * 1024 * 1024);
});

test("a client that goes away in the middle leaves the agent well", async () => {
  await writeFile(join(agent.home, "large"), Buffer.alloc(16 * 1024 * 1024, 1));
  for (let round = 0; round < 5; round += 1) (await open("large")).destroy();
  expect((await download("data.bin")).body.equals(content)).toBe(true);
});

test("a slow client holds the reading back: memory does not fill with the file", async () => {
  await writeFile(join(agent.home, "large"), Buffer.alloc(96 * 1024 * 1024, 1));
  const before = process.memoryUsage().arrayBuffers;
  const response = await open("large");
  response.pause();
  await new Promise((resolve) => setTimeout(resolve, 300)); // time in which an unbounded reader would have read it all
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(24 * 1024 * 1024);
  response.destroy();
});
