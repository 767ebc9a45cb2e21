import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Code } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { parseGroup, parsePasswd } from "./account-files.ts";
import { basicUserName, Users } from "./users.ts";

let etcFolder: string;
let fromInit: string | undefined;
beforeEach(() => {
  etcFolder = mkdtempSync(join(tmpdir(), "roost-etc-"));
  fromInit = undefined;
});
afterEach(() => rmSync(etcFolder, { recursive: true }));

const users = () => new Users({ etcFolder, defaultName: () => fromInit });
const passwd = (...lines: string[]) => writeFileSync(join(etcFolder, "passwd"), `${lines.join("\n")}\n`);
const group = (...lines: string[]) => writeFileSync(join(etcFolder, "group"), `${lines.join("\n")}\n`);
const basic = (text: string) => new Headers({ authorization: `Basic ${Buffer.from(text).toString("base64")}` });

describe("account files", () => {
  test("lines that make no sense are skipped, ids that are none too", () => {
    const text = [
      "ok:x:5:6:A,B:/home/ok:/bin/zsh",
      "",
      "# comment:x:1:1::/:/bin/sh",
      "nocolons",
      ":x:7:7::/:/bin/sh",
      "minus:x:-1:0::/:/bin/sh",
      "noid:x::0::/:/bin/sh",
      "nochange:x:4294967295:0::/:/bin/sh",
      "big:x:99999999999:0::/:/bin/sh",
      "hex:x:0x0:0::/:/bin/sh",
      "short:x:8:8",
    ].join("\n");
    expect(parsePasswd(text)).toEqual([
      { name: "ok", uid: 5, gid: 6, home: "/home/ok", shell: "/bin/zsh" },
      { name: "short", uid: 8, gid: 8, home: "/", shell: "/bin/sh" },
    ]);
  });

  test("a home that is not absolute becomes /", () => {
    expect(parsePasswd("u:x:1:1::relative/home:/bin/sh")[0]?.home).toBe("/");
  });

  test("groups have members, or none", () => {
    expect(parseGroup("a:x:1:u,v\nb:x:2:\nc:x:x:u\n")).toEqual([
      { name: "a", gid: 1, members: ["u", "v"] },
      { name: "b", gid: 2, members: [] },
    ]);
  });
});

describe("who a request acts as", () => {
  test("the named user, with all groups once and the primary one first", () => {
    passwd("root:x:0:0::/root:/bin/sh", "u:x:10:20::/home/u:/bin/bash");
    group("g:x:20:u", "extra:x:30:u", "more:x:31:root,u", "not:x:32:uu");
    expect(users().userOf(basic("u:"))).toEqual({ name: "u", uid: 10, gid: 20, home: "/home/u", shell: "/bin/bash", groups: [20, 30, 31] });
  });

  test("without a name: the one of /init, else `user`, else root", () => {
    passwd("root:x:0:0::/root:/bin/sh", "user:x:1000:1000::/home/user:/bin/sh", "other:x:7:7::/:/bin/sh");
    expect(users().userOf(new Headers()).name).toBe("user");
    expect(users().userOf(basic(":")).name).toBe("user");
    fromInit = "other";
    expect(users().userOf(new Headers()).name).toBe("other");
    fromInit = undefined;
    passwd("root:x:0:0::/root:/bin/sh");
    expect(users().userOf(new Headers()).name).toBe("root");
  });

  test("an unknown name is unauthenticated, never root: in the header, of /init, and as the last resort", () => {
    passwd("root:x:0:0::/root:/bin/sh");
    expect(() => users().userOf(basic("ghost:"))).toThrow(expect.objectContaining({ code: Code.Unauthenticated }));
    fromInit = "ghost";
    expect(() => users().userOf(new Headers())).toThrow("invalid default user: 'ghost'");
    fromInit = undefined;
    passwd("someone:x:5:5::/:/bin/sh");
    expect(() => users().userOf(new Headers())).toThrow("invalid username: 'root'");
  });

  test("a root file system without passwd has root and nobody else", () => {
    expect(users().userOf(new Headers())).toMatchObject({ name: "root", uid: 0, gid: 0, home: "/root" });
    expect(() => users().userOf(basic("user:"))).toThrow("invalid username");
  });

  test("a passwd file too large to be one has nobody at all, not even root", () => {
    writeFileSync(join(etcFolder, "passwd"), `root:x:0:0::/root:/bin/sh\n${"x".repeat(1024 * 1024)}`);
    expect(() => users().userOf(new Headers())).toThrow("invalid username: 'root'");
  });

  test("changes are seen: written in place, and replaced", () => {
    passwd("root:x:0:0::/root:/bin/sh");
    const known = users();
    expect(known.byName("late")).toBeUndefined();
    passwd("root:x:0:0::/root:/bin/sh", "late:x:50:50::/:/bin/sh");
    expect(known.byName("late")?.uid).toBe(50);
    writeFileSync(join(etcFolder, "new"), "late:x:51:50::/:/bin/sh\n");
    renameSync(join(etcFolder, "new"), join(etcFolder, "passwd"));
    expect(known.byName("late")?.uid).toBe(51);
  });

  test("names of ids, or the number where there is none", () => {
    passwd("u:x:10:20::/:/bin/sh");
    group("g:x:20:");
    expect([users().userName(10), users().userName(11), users().groupName(20), users().groupName(21)]).toEqual(["u", "11", "g", "21"]);
  });
});

describe("HTTP Basic", () => {
  test.each([
    [null, undefined],
    ["Bearer abc", undefined],
    ["Basic dXNlcjo=", "user"],
    ["basic dXNlcjo=", "user"],
    ["Basic dXNlcjpwYXNz", "user"],
    ["Basic Og==", ""],
  ])("%j names %j", (header, name) => {
    expect(basicUserName(header)).toBe(name);
  });

  test.each(["Basic", "Basic ", "Basic dXNlcg==", "Basic \u00ff", "Basic a b"])("%j is refused", (header) => {
    expect(() => basicUserName(header)).toThrow("not valid HTTP Basic");
  });
});
