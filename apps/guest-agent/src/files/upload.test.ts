import { chmod, link, mkdir, open, readFile, readdir, readlink, stat, symlink, writeFile } from "node:fs/promises";
import { createServer, request as httpRequest, type Server } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { gzipSync } from "node:zlib";

import { poll, withDeadline } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { HttpError } from "../http/http-error.ts";
import { receiveFiles } from "./upload.ts";
import { multipart, startFileServer, type TestFileServer, type TestAnswer } from "../filesystem/test-file-server.ts";

let agent: TestFileServer;
beforeEach(async () => {
  agent = await startFileServer();
});
afterEach(async () => agent[Symbol.asyncDispose]());

const at = (...parts: string[]) => join(agent.home, ...parts);
const octets = { "content-type": "application/octet-stream" };
const put = async (path: string, body: Buffer | string, headers: Record<string, string> = {}) =>
  agent.call("POST", `/files?path=${encodeURIComponent(path)}`, { headers: { ...octets, ...headers }, body });
const post = async (parts: Parameters<typeof multipart>[0], target = "/files", headers: Record<string, string> = {}) => {
  const form = multipart(parts);
  return agent.call("POST", target, { headers: { ...form.headers, ...headers }, body: form.body });
};
const json = (answer: TestAnswer): unknown => JSON.parse(answer.body.toString());
const problem = (answer: TestAnswer) => {
  const { code, message } = json(answer) as { code: number; message: string };
  expect(code).toBe(answer.status);
  return `${code} ${message}`;
};
/** Every name under the home, so that nothing left behind goes unseen. */
const left = async () => (await readdir(agent.home, { recursive: true })).sort();

describe("raw", () => {
  test("the body is the file; folders above are made; mode 0644 whatever the umask", async () => {
    const before = process.umask(0o077);
    try {
      const content = Buffer.from(new SeededRandom(1).bytes(200_000));
      const answer = await put("new/folder/data.bin", content);
      expect([answer.status, json(answer)]).toEqual([200, [{ name: "data.bin", path: at("new/folder/data.bin"), type: "file" }]]);
      expect((await readFile(at("new/folder/data.bin"))).equals(content)).toBe(true);
      expect((await stat(at("new/folder/data.bin"))).mode & 0o777).toBe(0o644);
      expect((await stat(at("new"))).mode & 0o777).toBe(0o755);
    } finally {
      process.umask(before);
    }
  });

  test("an empty body is an empty file", async () => {
    expect((await put("empty", "")).status).toBe(200);
    expect((await stat(at("empty"))).size).toBe(0);
  });

  test("a path is required", async () => {
    expect(problem(await agent.call("POST", "/files", { headers: octets, body: "x" }))).toBe(
      "400 path query parameter is required for raw body upload",
    );
    expect(problem(await put("", "x"))).toMatch(/^400 path is a directory/);
  });

  test("what is replaced keeps its mode; a hard link of it keeps the old content", async () => {
    await writeFile(at("script"), "old");
    await chmod(at("script"), 0o750);
    await link(at("script"), at("other-name"));
    expect((await put("script", "new")).status).toBe(200);
    expect((await stat(at("script"))).mode & 0o777).toBe(0o750);
    expect(await readFile(at("script"), "utf8")).toBe("new");
    expect(await readFile(at("other-name"), "utf8")).toBe("old");
  });

  test("who has the file open reads on in the old one: no reader ever sees half a file", async () => {
    await writeFile(at("data"), "old content");
    await using reader = await open(at("data"));
    await put("data", "new");
    expect((await reader.readFile()).toString()).toBe("old content");
  });

  test("a link is written through, also one to a file that is not there yet", async () => {
    await mkdir(at("elsewhere"));
    await writeFile(at("elsewhere/real"), "old");
    await symlink("elsewhere/real", at("link"));
    await symlink("elsewhere/later", at("dangling"));
    await symlink("link", at("chain"));
    expect(json(await put("chain", "through"))).toEqual([{ name: "chain", path: at("chain"), type: "file" }]);
    expect((await put("dangling", "made")).status).toBe(200);
    expect(await readFile(at("elsewhere/real"), "utf8")).toBe("through");
    expect(await readFile(at("elsewhere/later"), "utf8")).toBe("made");
    expect(await readlink(at("link"))).toBe("elsewhere/real");
    expect(await left()).toEqual(["chain", "dangling", "elsewhere", "elsewhere/later", "elsewhere/real", "link"]);
  });

  test("a cycle of links, a folder, a device and a name that is too long are a 400; a file in the way too", async () => {
    await symlink("cycle", at("cycle"));
    await mkdir(at("folder"));
    await writeFile(at("file"), "");
    expect((await put("cycle", "x")).status).toBe(400);
    expect(problem(await put("folder", "x"))).toMatch(/^400 path is a directory/);
    expect((await put("/dev/null", "x")).status).toBe(400);
    expect((await put("n".repeat(256), "x")).status).toBe(400);
    expect((await put("file/below", "x")).status).toBe(400);
    expect((await put("a\0b", "x")).status).toBe(400);
    expect(await left()).toEqual(["cycle", "file", "folder"]);
    expect((await stat("/dev/null")).isCharacterDevice()).toBe(true);
  });

  test("a name as long as the disk allows is fine", async () => {
    expect((await put("n".repeat(255), "x")).status).toBe(200);
    expect(await left()).toEqual(["n".repeat(255)]);
  });

  test("another content type is refused", async () => {
    expect((await put("f", "x", { "content-type": "text/plain" })).status).toBe(400);
    expect((await agent.call("POST", "/files?path=f", { body: "x" })).status).toBe(400);
    expect(await left()).toEqual([]);
  });
});

describe("multipart", () => {
  test("each part's file name is its path; other parts are passed over", async () => {
    const answer = await post([
      { name: "comment", content: "not a file" },
      { name: "file", filename: "a/one.txt", content: "1" },
      { name: "file", filename: at("two"), content: "22" },
      { name: "picture", filename: "ignored.png", content: "x".repeat(100_000) },
      { name: "file", filename: "~/ünï cødé", content: "" },
    ]);
    expect(json(answer)).toEqual([
      { name: "one.txt", path: at("a/one.txt"), type: "file" },
      { name: "two", path: at("two"), type: "file" },
      { name: "ünï cødé", path: at("ünï cødé"), type: "file" },
    ]);
    expect(await left()).toEqual(["a", "a/one.txt", "two", "ünï cødé"]);
    expect(await readFile(at("two"), "utf8")).toBe("22");
  });

  test("?path wins over the file name, and a part without one has its bytes kept", async () => {
    await post([{ name: "file", filename: "unused", content: "1" }], "/files?path=chosen");
    await post([{ name: "file", content: Buffer.from([0xff, 0x00, 0xe9]) }], "/files?path=field");
    expect([...(await readFile(at("field")))]).toEqual([0xff, 0x00, 0xe9]);
    expect(await left()).toEqual(["chosen", "field"]);
    expect((await post([{ name: "file", content: "x" }])).status).toBe(400);
  });

  test("large parts and many parts arrive byte-exact and in order", async () => {
    const random = new SeededRandom(3);
    const parts = Array.from({ length: 60 }, (_, index) => ({
      name: "file",
      filename: `f${index}`,
      content: Buffer.from(random.bytes(index % 20 === 0 ? 700_000 : random.integer(3000))),
    }));
    const answer = await post(parts);
    expect((json(answer) as { name: string }[]).map((file) => file.name)).toEqual(parts.map((part) => part.filename));
    for (const part of parts) expect((await readFile(at(part.filename))).equals(part.content), part.filename).toBe(true);
  });

  test("two parts for one path are refused, and neither is stored", async () => {
    const twice = await post([
      { name: "file", filename: "a", content: "1" },
      { name: "file", filename: "./a", content: "2" },
    ]);
    expect(problem(twice)).toMatch(/^400 you cannot upload multiple files to the same path/);
    expect(await left()).toEqual([]);
  });

  test("too many files are refused, and none is stored", async () => {
    const parts = Array.from({ length: 1001 }, (_, index) => ({ name: "file", filename: `f${index}`, content: "x" }));
    expect((await post(parts)).status).toBe(413);
    expect(await left()).toEqual([]);
  });

  test("a body without its end, without a boundary, or that is none at all stores nothing", async () => {
    const form = multipart([{ name: "file", filename: "f", content: "x".repeat(100_000) }]);
    const cases = [
      { headers: form.headers, body: form.body.subarray(0, -5) },
      { headers: form.headers, body: form.body.subarray(0, 5000) },
      { headers: form.headers, body: Buffer.from("nonsense") },
      { headers: form.headers, body: Buffer.alloc(0) },
      { headers: { "content-type": "multipart/form-data" }, body: form.body },
      { headers: { "content-type": "multipart/mixed; boundary=x" }, body: form.body },
    ];
    for (const [index, { headers, body }] of cases.entries()) {
      expect((await agent.call("POST", "/files", { headers, body })).status, `case ${index}`).toBe(400);
    }
    expect(await left()).toEqual([]);
  });

  test("a refused part among megabytes is answered while the rest is still coming", async () => {
    const rest = Array.from({ length: 4 }, (_, index) => ({ name: "file", filename: `f${index}`, content: Buffer.alloc(2_000_000) }));
    expect((await post([{ name: "file", filename: "a\0b", content: "x" }, ...rest])).status).toBe(400);
    expect(await left()).toEqual([]);
  });

  test("one bad part among good ones stores none of them, and takes its folders back", async () => {
    await mkdir(at("folder"));
    const answer = await post([
      { name: "file", filename: "deep/er/good", content: "1" },
      { name: "file", filename: "folder", content: "2" },
    ]);
    expect(answer.status).toBe(400);
    expect(await left()).toEqual(["folder"]);
  });
});

describe("gzip", () => {
  const content = Buffer.from("the quick brown fox\n".repeat(20_000));
  const gzip = { "content-encoding": "gzip" };

  test("raw and multipart bodies are unzipped", async () => {
    expect((await put("raw", gzipSync(content), gzip)).status).toBe(200);
    const form = multipart([{ name: "file", filename: "part", content }]);
    expect((await agent.call("POST", "/files", { headers: { ...form.headers, ...gzip }, body: gzipSync(form.body) })).status).toBe(200);
    expect((await readFile(at("raw"))).equals(content)).toBe(true);
    expect((await readFile(at("part"))).equals(content)).toBe(true);
  });

  test("what is cut, damaged or no gzip at all is a 400 and stores nothing", async () => {
    const zipped = gzipSync(content);
    const damaged = Buffer.from(zipped);
    damaged[damaged.length - 6] = (damaged.at(-6) ?? 0) ^ 0xff; // in the checksum: everything before it was fine
    for (const [index, body] of [zipped.subarray(0, zipped.length >> 1), damaged, Buffer.from("plain"), Buffer.alloc(0)].entries()) {
      const answer = await put("f", body, gzip);
      expect(answer.status, `case ${index}`).toBe(400);
    }
    expect(await left()).toEqual([]);
  });

  test("other encodings are refused", async () => {
    expect((await put("f", "x", { "content-encoding": "br" })).status).toBe(400);
    expect((await put("f", "x", { "content-encoding": "identity" })).status).toBe(200);
  });
});

describe("too large", () => {
  let server: Server;
  let target: string;
  beforeEach(async () => {
    const user = agent.context.users.acting("tester");
    server = createServer((request, response) => {
      const path = new URL(request.url ?? "/", "http://guest").searchParams.get("path") ?? undefined;
      const options = { user, path, expandPath: (written: string) => agent.context.expandPath(written, user), bytesMax: 100_000 };
      receiveFiles(request, options).then(
        (files) => response.writeHead(200).end(JSON.stringify(files)),
        (error: unknown) => response.writeHead(error instanceof HttpError ? error.status : 500).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    target = `http://127.0.0.1:${(server.address() as AddressInfo).port}/?path=folder/f`;
  });
  afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  test.each([
    ["a raw body", { ...octets }, Buffer.alloc(100_001)],
    ["a bomb", { ...octets, "content-encoding": "gzip" }, gzipSync(Buffer.alloc(50_000_000))],
    ["a form", multipart([]).headers, multipart([{ name: "file", filename: "f", content: Buffer.alloc(100_000) }]).body],
    [
      "a form of small files",
      multipart([]).headers,
      multipart(Array.from({ length: 30 }, (_, index) => ({ name: index === 0 ? "file" : "x", content: "y".repeat(5000) }))).body,
    ],
  ])("%s is a 413 and leaves nothing", async (_what, headers, body) => {
    const response = await fetch(target, { method: "POST", headers, body });
    expect(response.status).toBe(413);
    expect(await left()).toEqual([]);
  });

  test("what is as large as allowed is taken", async () => {
    const response = await fetch(target, { method: "POST", headers: octets, body: Buffer.alloc(100_000) });
    expect(response.status).toBe(200);
    expect(await left()).toEqual(["folder", "folder/f"]);
  });
});

describe("cut off", () => {
  const begin = (bytes: number, declared: number) => {
    const request = httpRequest(`${agent.url}/files?path=folder/f`, {
      method: "POST",
      headers: { ...octets, "content-length": declared },
      agent: false,
    });
    request.on("error", () => undefined);
    request.write(Buffer.alloc(bytes, 1));
    return request;
  };

  test("an upload that breaks off leaves neither file nor folder, and the old file as it was", async () => {
    const request = begin(1_500_000, 2_000_000);
    await poll({ what: "the folder of the upload", timeoutMs: 30_000 }, async () => ((await left()).length > 0 ? true : undefined));
    expect(await left()).toEqual(["folder"]); // the file has no name yet
    request.destroy();
    await poll({ what: "the end of the broken upload", timeoutMs: 30_000 }, async () => ((await left()).length === 0 ? true : undefined));
    await mkdir(at("folder"));
    await writeFile(at("folder/f"), "old");
    const second = begin(1_500_000, 2_000_000);
    await wait(100);
    second.destroy();
    await poll({ what: "descriptors closed", timeoutMs: 30_000 }, async () => ((await openNameless()).length === 0 ? true : undefined));
    expect(await left()).toEqual(["folder", "folder/f"]);
    expect(await readFile(at("folder/f"), "utf8")).toBe("old");
  });

  test("a small upload that breaks off leaves nothing either", async () => {
    const request = begin(10, 20);
    await wait(50);
    request.destroy();
    expect((await put("last", "x")).status).toBe(200);
    expect(await left()).toEqual(["last"]);
  });

  test("many at once to one path: the file is always one of them, whole", async () => {
    const bodies = Array.from({ length: 12 }, (_, index) => Buffer.alloc(200_000 + index, index));
    const readers = (async () => {
      for (let round = 0; round < 200; round += 1) {
        const seen = await readFile(at("same")).catch(() => undefined);
        if (seen === undefined) continue;
        const first = seen[0] ?? -1;
        expect(seen.equals(bodies[first] ?? Buffer.alloc(0)), `a reader saw ${seen.length} bytes of ${first}`).toBe(true);
      }
    })();
    const answers = await Promise.all(bodies.map(async (body) => put("same", body)));
    await readers;
    expect(answers.map((answer) => answer.status)).toEqual(bodies.map(() => 200));
    expect(await left()).toEqual(["same"]);
  });

  test("a refused upload gets its answer although the client is still sending", async () => {
    await mkdir(at("folder"));
    const answer = await put("folder", Buffer.alloc(8 * 1024 * 1024));
    expect(problem(answer)).toMatch(/^400 path is a directory/);
    expect(answer.headers.connection).toBe("close");
  });

  /** Files this process holds open that have no name: uploads under way. */
  async function openNameless(): Promise<string[]> {
    const targets = await Promise.all((await readdir("/proc/self/fd")).map(async (fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")));
    return targets.filter((target) => target.startsWith(agent.home) && target.endsWith("(deleted)"));
  }
});

test("nothing stays open after a hundred uploads, good and bad", async () => {
  const count = async () => (await readdir("/proc/self/fd")).length;
  await put("warm", "x");
  const before = await count();
  for (let round = 0; round < 50; round += 1) {
    await put(`f${round}`, "x");
    await put("x\0", "x");
    await put("warm/below", Buffer.alloc(2_000_000)); // refused early: its connection ends when all was sent
    await post([{ name: "file", filename: "warm/below", content: "x" }]);
  }
  await poll({ what: "descriptors closed", timeoutMs: 30_000 }, async () => ((await count()) <= before + 2 ? true : undefined));
});

describe("compose", () => {
  const compose = async (body: unknown) =>
    agent.call("POST", "/files/compose", { body: typeof body === "string" ? body : JSON.stringify(body) });

  test("joins parts in order, makes folders, and removes the parts", async () => {
    await put("part1", "one,");
    await put("part2", "two,");
    await put("part3", "three");
    const answer = await compose({ source_paths: ["part1", "~/part2", at("part3")], destination: "out/whole" });
    expect([answer.status, json(answer)]).toEqual([200, { name: "whole", path: at("out/whole"), type: "file" }]);
    expect(await readFile(at("out/whole"), "utf8")).toBe("one,two,three");
    expect(await left()).toEqual(["out", "out/whole"]);
  });

  test("a missing part, a folder as part, or the destination among them changes nothing", async () => {
    await put("part", "x");
    await mkdir(at("folder"));
    expect((await compose({ source_paths: ["part", "missing"], destination: "new/whole" })).status).toBe(404);
    expect((await compose({ source_paths: ["part", "folder"], destination: "whole" })).status).toBe(400);
    expect((await compose({ source_paths: ["part"], destination: "./part" })).status).toBe(400);
    expect((await compose({ source_paths: ["part"], destination: "folder" })).status).toBe(400);
    expect((await compose({ source_paths: ["part"], destination: "w", username: "ghost" })).status).toBe(401);
    expect(await left()).toEqual(["folder", "part"]);
  });

  test.each([
    "",
    "{",
    "[]",
    "null",
    '{"source_paths":[]}',
    '{"source_paths":["a"]}',
    '{"source_paths":"a","destination":"b"}',
    '{"source_paths":[1],"destination":"b"}',
  ])("the body %j is a 400", async (body) => {
    expect((await compose(body)).status).toBe(400);
  });

  test("a body of megabytes is a 413", async () => {
    expect((await compose(JSON.stringify({ source_paths: ["x".repeat(2_000_000)], destination: "w" }))).status).toBe(413);
  });
});

test("hostile HTTP bodies leave the agent well and nothing behind", async () => {
  const random = new SeededRandom();
  const form = multipart([
    { name: "file", filename: "a/b", content: "content" },
    { name: "file", filename: "c", content: Buffer.alloc(3000, 7) },
  ]);
  const boundary = "--roost-test-boundary";
  for (let round = 0; round < 250; round += 1) {
    const what = `SEED=${random.seed} round ${round}`;
    let body = Buffer.from(form.body);
    for (let change = random.integer(5); change >= 0; change -= 1) {
      const position = random.integer(body.length + 1);
      const insert = random.pick([
        Buffer.from(random.bytes(random.integer(40))),
        Buffer.from(`\r\n${boundary}\r\n`),
        Buffer.from('content-disposition: form-data; name="file"; filename="../\0"'),
        Buffer.from("\r\n\r\n"),
        Buffer.alloc(0),
      ]);
      body = Buffer.concat([body.subarray(0, position), insert, body.subarray(position + random.integer(30))]);
    }
    const headers: Record<string, string> = { ...form.headers };
    if (random.integer(4) === 0) headers["content-encoding"] = "gzip";
    const zipped = headers["content-encoding"] === "gzip" && random.integer(2) === 0 ? gzipSync(body) : body;
    const target = random.pick(["/files", "/files?path=x/y", "/files?path=%00", "/files?path=", "/files?username=%ff"]);
    const answer = await withDeadline(`the answer, ${what}`, 5_000, agent.call("POST", target, { headers, body: zipped }));
    expect([200, 400, 401, 404, 413], `${what}: ${answer.body.toString()}`).toContain(answer.status);
    if (answer.status !== 200)
      expect(
        (await left()).filter((name) => name.includes(".roost-")),
        what,
      ).toEqual([]);
  }
  expect((await put("still-well", "x")).status).toBe(200);
});

test("raw bytes on the socket instead of HTTP do not take the agent down", async () => {
  const random = new SeededRandom();
  for (let round = 0; round < 40; round += 1) {
    await new Promise<void>((resolve) => {
      const socket = connect(Number(new URL(agent.url).port), "127.0.0.1", () => {
        socket.write(
          random.pick([
            "POST /files?path=z HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12",
            "GET /files?path=%2 HTTP/1.1\r\nrange: ",
            "POST /files HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
          ]),
        );
        socket.end(Buffer.from(random.bytes(random.integer(200))));
      });
      socket.on("error", () => undefined);
      socket.on("close", () => resolve());
      socket.resume();
    });
  }
  expect((await put("still-well", "x")).status).toBe(200);
});
