import type { ServerResponse } from "node:http";

import { fileEntryAnswerSchema, fileListSchema } from "@roost/contract";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
let files: string;
beforeAll(async () => {
  world = await World.start();
  files = `/v1/sandboxes/${(await world.createSandbox()).id}/files`;
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
afterEach(() => {
  world.guest.misbehaviour.files = undefined;
});

const at = (path: string, more = "") => `${files}?path=${encodeURIComponent(path)}${more}`;
const put = (path: string, body: unknown, headers: Record<string, string> = {}) => world.request("PUT", at(path), body, headers);
const errorIn = async (answer: Response) => ((await answer.json()) as { error: { code: string; message: string } }).error;
const MiB = 1024 * 1024;

test("a file goes up and comes down as it was, with what may be said of it", async () => {
  const written = await put("/dir/ü file", "text\n");
  expect(written.status).toBe(200);
  expect(fileEntryAnswerSchema.parse(await written.json()).entry).toMatchObject({ name: "ü file", type: "file", size: 5 });
  const read = await world.request("GET", at("/dir/ü file"));
  expect(await read.text()).toBe("text\n");
  expect(Object.fromEntries(read.headers)).toMatchObject({
    "content-type": "application/octet-stream",
    "content-length": "5",
    "content-disposition": "attachment",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
  });
});

test("any content type is only bytes, and an empty body is an empty file", async () => {
  expect((await put("/json", "{not json", { "content-type": "application/json" })).status).toBe(200);
  expect(await (await world.request("GET", at("/json"))).text()).toBe("{not json");
  expect((await put("/empty", undefined)).status).toBe(200);
  const read = await world.request("GET", at("/empty"));
  expect([read.status, await read.text()]).toEqual([200, ""]);
});

test("ranges and HEAD", async () => {
  await put("/range", "0123456789");
  const part = await world.request("GET", at("/range"), undefined, { range: "bytes=2-4" });
  expect([part.status, await part.text(), part.headers.get("content-range")]).toEqual([206, "234", "bytes 2-4/10"]);
  const beyond = await world.request("GET", at("/range"), undefined, { range: "bytes=20-30" });
  expect([beyond.status, (await errorIn(beyond)).code]).toEqual([416, "range_not_satisfiable"]);
  const head = await world.request("HEAD", at("/range"));
  expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "10", ""]);
});

test("what is wrong is told", async () => {
  const missing = await world.request("GET", at("/missing"));
  expect([missing.status, (await errorIn(missing)).code]).toEqual([404, "file_not_found"]);
  await put("/folder/x", "x");
  const folder = await world.request("GET", at("/folder"));
  expect([folder.status, (await errorIn(folder)).code]).toEqual([400, "path_invalid"]);
  const user = await world.request("GET", at("/range", "&user=nobody-here"));
  expect([user.status, (await errorIn(user)).code]).toEqual([400, "user_unknown"]);
  const encoded = await put("/gz", "x", { "content-encoding": "gzip" });
  expect([encoded.status, (await errorIn(encoded)).code]).toEqual([415, "media_type_unsupported"]);
  const long = await world.request("GET", at("x".repeat(5000)));
  expect([long.status, (await errorIn(long)).code]).toEqual([400, "request_invalid"]);
  const nul = await world.request("GET", at("a\0b"));
  expect([nul.status, (await errorIn(nul)).code]).toEqual([400, "request_invalid"]);
});

test("an upload that breaks off leaves nothing", async () => {
  const gone = new AbortController();
  const sending = fetch(world.url + at("/aborted"), {
    method: "PUT",
    headers: { "x-api-key": world.key },
    body: new ReadableStream({
      start(controller) {
        controller.enqueue(new Uint8Array(MiB));
      },
    }),
    duplex: "half",
    signal: gone.signal,
  });
  sending.catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 200));
  gone.abort();
  await expect(sending).rejects.toThrow(/abort/);
  const read = await world.request("GET", at("/aborted"));
  expect(read.status).toBe(404);
  await read.text();
});

test("a download the guest breaks off never looks complete", async () => {
  for (const length of ["1000", undefined]) {
    world.guest.misbehaviour.files = (_request, response) => {
      response.writeHead(200, length === undefined ? {} : { "content-length": length });
      response.write("only this");
      setTimeout(() => response.destroy(), 50);
    };
    const read = await world.request("GET", at("/x"));
    expect(read.status).toBe(200);
    await expect(read.text()).rejects.toThrow("terminated");
  }
});

test("a guest that refuses early is heard before the upload ends", { timeout: 60_000 }, async () => {
  world.guest.misbehaviour.files = (incoming, response) => {
    response.writeHead(507, { connection: "close" }).end('{"code":507,"message":"not enough disk space"}');
    incoming.resume();
  };
  const answer = await put("/full", new Uint8Array(100_000));
  expect([answer.status, (await errorIn(answer)).code]).toEqual([507, "guest_disk_full"]);
});

test.each<[string, (response: ServerResponse) => void, number, string]>([
  ["an unknown status", (response) => response.writeHead(299).end(), 502, "guest_error"],
  ["a redirect", (response) => response.writeHead(302, { location: "http://evil.example" }).end(), 502, "guest_error"],
  ["an error of megabytes", (response) => response.writeHead(500).end("x".repeat(5_000_000)), 502, "guest_error"],
  ["no HTTP", (response) => void response.socket?.end("not http at all\r\n\r\n"), 502, "guest_unreachable"],
  ["nothing", (response) => response.destroy(), 502, "guest_unreachable"],
])("a guest that answers a download with %s", async (_what, answer, status, code) => {
  world.guest.misbehaviour.files = (_request, response) => answer(response);
  const read = await world.request("GET", at("/x"));
  const error = await errorIn(read);
  expect([read.status, error.code]).toEqual([status, code]);
  expect(error.message.length).toBeLessThan(700);
});

test("headers a guest invents are not passed on", async () => {
  world.guest.misbehaviour.files = (_request, response) =>
    void response
      .writeHead(200, {
        "set-cookie": "a=b",
        "content-type": "text/html",
        etag: "not quoted",
        "last-modified": "<script>",
        "access-control-allow-origin": "*",
        "content-range": "junk",
      })
      .end("<script>");
  const read = await world.request("GET", at("/x"));
  for (const name of ["set-cookie", "etag", "last-modified", "access-control-allow-origin", "content-range"])
    expect(read.headers.get(name), name).toBeNull();
  expect(read.headers.get("content-type")).toBe("application/octet-stream");
  await read.text();
});

test("folders: make, list, move, look, remove", async () => {
  const ask = (what: string, body: object) => world.request("POST", `${files}/${what}`, body);
  const made = await ask("mkdir", { path: "/tree/deep" });
  expect([made.status, fileEntryAnswerSchema.parse(await made.json()).entry.type]).toEqual([201, "directory"]);
  const again = await ask("mkdir", { path: "/tree/deep" });
  expect([again.status, (await errorIn(again)).code]).toEqual([409, "file_exists"]);
  await put("/tree/deep/a", "a");
  await put("/tree/deep/b", "bb");
  const listed = await ask("list", { path: "/tree/deep" });
  expect(fileListSchema.parse(await listed.json()).entries.map((entry) => [entry.name, entry.size])).toEqual([
    ["a", 1],
    ["b", 2],
  ]);
  expect((await ask("move", { source: "/tree/deep/a", destination: "/tree/c" })).status).toBe(200);
  const stat = await ask("stat", { path: "/tree/deep/a" });
  expect([stat.status, (await errorIn(stat)).code]).toEqual([404, "file_not_found"]);
  expect((await ask("remove", { path: "/tree" })).status).toBe(204);
  expect((await ask("remove", { path: "/tree" })).status).toBe(204);
});
