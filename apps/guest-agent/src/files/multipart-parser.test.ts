import { SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import { MultipartParser } from "./multipart-parser.ts";
import { boundaryOf, parseDisposition, parseParameters } from "./part-header.ts";

async function* inPieces(body: Buffer, size: () => number): AsyncGenerator<Buffer> {
  for (let at = 0; at < body.length;) {
    const length = size();
    yield body.subarray(at, at + length);
    at += length;
  }
}

/** Everything in a body, as name, file name and content; at most `wanted` chunks of each part are read. */
async function read(
  body: Buffer | string,
  size: () => number = () => 65_536,
  wanted = Infinity,
): Promise<(readonly (string | undefined)[])[]> {
  const parser = new MultipartParser(inPieces(Buffer.from(body), size), "b");
  const parts: (readonly (string | undefined)[])[] = [];
  for (let part = await parser.next(); part !== undefined; part = await parser.next()) {
    const chunks: Buffer[] = [];
    for await (const chunk of part.content) {
      if (chunks.length >= wanted) break;
      chunks.push(Buffer.from(chunk));
    }
    parts.push([part.name, part.filename, Buffer.concat(chunks).toString("latin1")]);
  }
  return parts;
}

/** Content that may look like boundaries and holds none, also not together with the line break behind it. */
function withoutBoundaries(content: string): string {
  const cleaned = content.replaceAll(/\r\n--b(?=[ \t]*\r\n|--)/g, "").replaceAll(/\r\n--b[ \t\r-]*$/g, "");
  return cleaned === content ? content : withoutBoundaries(cleaned);
}

const part = (name: string, content: string, filename = "f") =>
  `--b\r\ncontent-disposition: form-data; name="${name}"; filename="${filename}"\r\n\r\n${content}\r\n`;

describe("a multipart body", () => {
  test("is read part by part, whatever comes before and after", async () => {
    const body = `preamble\r\n${part("a", "one")}${part("b", "")}--b--\r\nepilogue --b\r\n`;
    expect(await read(body)).toEqual([
      ["a", "f", "one"],
      ["b", "f", ""],
    ]);
    expect(await read("--b--")).toEqual([]);
  });

  test("may have blanks behind a boundary, other headers, and none at all", async () => {
    const body = "--b \t\r\nX-Other: 1\r\nContent-Disposition:form-data;NAME=a\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--";
    expect(await read(body)).toEqual([
      ["a", undefined, "1"],
      [undefined, undefined, "2"],
    ]);
  });

  test("keeps content that looks like a boundary and is none", async () => {
    for (const content of ["\r\n--", "\r\n--bb", "\r\n--b-", "\r\n--b x", "\r\n--b\r", "--b\r\n", "\r\n\r\n--c\r\n", "\r", "\n--b--"]) {
      expect(await read(`${part("a", content)}--b--`), JSON.stringify(content)).toEqual([["a", "f", content]]);
    }
  });

  test("that ends early, or whose heads have no end, is broken", async () => {
    const whole = `${part("a", "content")}${part("b", "more")}--b--`;
    for (let length = 0; length < whole.length; length += 1) {
      await expect(read(whole.slice(0, length)), `${length} bytes`).rejects.toThrow(/ends before its closing boundary/);
    }
    await expect(read(`--b\r\n${"x: y\r\n".repeat(3000)}\r\n\r\n--b--`)).rejects.toThrow(/head of a part is too long/);
    expect(await read(`--b${" ".repeat(1000)}\r\n\r\n\r\n--b--`)).toEqual([]); // so many blanks make it no boundary
  });

  test("is the same however it is cut, and whether or not its parts are read", async () => {
    const random = new SeededRandom();
    const pieces = ["\r\n", "--b", "--", "\r", "\n", "-", "b", "x", "\r\n--b", "content-disposition: form-data", "\0", "ÿ"] as const;
    for (let round = 0; round < 300; round += 1) {
      const what = `SEED=${random.seed} round ${round}`;
      const contents = Array.from({ length: 1 + random.integer(4) }, () =>
        withoutBoundaries(Array.from({ length: random.integer(12) }, () => random.pick(pieces)).join("")),
      );
      const body = Buffer.from(`${contents.map((content, index) => part(`p${index}`, content)).join("")}--b--\r\n`, "latin1");
      const expected = contents.map((content, index) => [`p${index}`, "f", content]);
      expect(await read(body, () => 1 + random.integer(9)), what).toEqual(expected);
      const names = (await read(body, () => 1 + random.integer(30), random.integer(3))).map(([name]) => name);
      expect(names, what).toEqual(expected.map(([name]) => name));
    }
  });

  test("of noise ends, with parts or with an error", async () => {
    const random = new SeededRandom();
    const pieces = [
      "--b\r\n",
      "\r\n",
      "\r\n\r\n",
      "--b--",
      "content-disposition: x; name=file; filename=",
      '"',
      "\\",
      ";",
      "é",
      "=",
      "\0",
    ] as const;
    for (let round = 0; round < 1000; round += 1) {
      const body = Array.from({ length: random.integer(40) }, () => random.pick(pieces)).join("");
      const outcome = await read(body, () => 1 + random.integer(20)).catch((error: Error) => error.message);
      if (typeof outcome === "string") expect(outcome, `SEED=${random.seed}`).toMatch(/^error reading form: /);
    }
  });
});

describe("headers of a part", () => {
  test.each([
    ['form-data; name="file"; filename="a b.txt"', "file", "a b.txt"],
    ["form-data; name=file; filename=plain.txt", "file", "plain.txt"],
    ['form-data; name="file"; filename="C:\\dir\\x"', "file", "C:\\dir\\x"],
    ['form-data; name="file"; filename="a\\"b\\\\c"', "file", 'a"b\\c'],
    ['form-data; name="file"; filename="a;b=c"', "file", "a;b=c"],
    ['form-data; name="file"; filename="first"; filename="second"', "file", "first"],
    [`form-data; name="file"; filename="na_ve"; filename*=utf-8''na%C3%AFve`, "file", "naïve"],
    [`form-data; name="file"; filename="kept"; filename*=utf-8''%ff`, "file", "kept"],
    [`form-data; name="file"; filename="kept"; filename*=latin1''x`, "file", "kept"],
    ['form-data; name="file"', "file", undefined],
    ['form-data; filename="x"', undefined, "x"],
    ['form-data; name="file; filename="x"', "file; filename=", undefined],
    ["", undefined, undefined],
  ])("%s", (value, name, filename) => {
    expect(parseDisposition(`x-first: 1\r\nContent-Disposition: ${value}\r\nx-last: 2`)).toEqual({ name, filename });
  });

  test("may be folded over lines", () => {
    expect(parseDisposition('content-disposition: form-data;\r\n\tname="file";\r\n filename="x"')).toEqual({ name: "file", filename: "x" });
  });

  test.each([
    ["multipart/form-data; boundary=abc", "abc"],
    ['Multipart/Form-Data;charset=utf-8; Boundary="a b;c"', "a b;c"],
    ["multipart/form-data", undefined],
    ["multipart/form-data; boundary=", undefined],
    [`multipart/form-data; boundary=${"x".repeat(201)}`, undefined],
    ["multipart/mixed; boundary=abc", undefined],
    ["text/plain; boundary=abc", undefined],
  ])("the boundary of %s", (type, boundary) => {
    expect(boundaryOf(type)).toBe(boundary);
  });

  test("parameters of noise are parsed to something", () => {
    const random = new SeededRandom();
    for (let round = 0; round < 2000; round += 1) {
      const text = Array.from({ length: random.integer(30) }, () => random.pick([";", "=", '"', "\\", "a", " ", "*", "\r\n", "\0"])).join(
        "",
      );
      expect(parseParameters(text).size, `SEED=${random.seed} ${JSON.stringify(text)}`).toBeLessThan(30);
    }
  });
});
