import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { sameToken } from "./access-token.ts";
import { hostsWith } from "./hosts-file.ts";
import { InitState } from "./init-state.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "roost-init-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const path = () => join(folder, "state/init.json");
const open = () => new InitState(path(), silentLogger);

test("a fresh agent is open and knows nothing", () => {
  const state = open();
  expect([state.accessToken, state.defaultUser, state.defaultWorkdir, state.envVars]).toEqual([undefined, undefined, undefined, {}]);
  expect(state.mayPass(undefined)).toBe(true);
});

test("what is applied is on disk, readable by root alone, and nothing else is left there", () => {
  open().apply({ accessToken: "secret", envVars: { A: "1" } });
  expect(statSync(path()).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, "state")).mode & 0o777).toBe(0o700);
  expect(readdirSync(join(folder, "state"))).toEqual(["init.json"]);
  expect(open().mayPass("secret")).toBe(true);
  expect(open().mayPass(undefined)).toBe(false);
});

test("what a later one does not mention stays; what it mentions is replaced as a whole", () => {
  const state = open();
  state.apply({ accessToken: "t", envVars: { A: "1", B: "2" }, defaultUser: "u", sandboxId: "s" });
  state.apply({ envVars: { B: "3" }, templateId: "x" });
  expect([state.accessToken, state.defaultUser, state.envVars, state.identity]).toEqual([
    "t",
    "u",
    { B: "3" },
    { sandboxId: "s", templateId: "x" },
  ]);
});

test("a state that cannot be written is not applied", () => {
  const state = open();
  rmSync(join(folder, "state"), { recursive: true });
  expect(() => state.apply({ accessToken: "t" })).toThrow("ENOENT");
  expect(state.mayPass(undefined)).toBe(true);
});

test.each([undefined, { accessToken: "t", envVars: { A: "1" } }])("what was kept (%j) comes back, also for the next agent", (kept) => {
  const state = open();
  if (kept !== undefined) state.apply(kept);
  const restore = state.keep();
  state.apply({ accessToken: "another", envVars: { B: "2" }, sandboxId: "s" });
  restore();
  for (const restored of [state, open()]) {
    expect([restored.accessToken, restored.envVars, restored.identity.sandboxId]).toEqual([
      kept?.accessToken,
      kept?.envVars ?? {},
      undefined,
    ]);
  }
});

test("what is forgotten is as fresh as at the beginning, also for the next agent", () => {
  const state = open();
  state.apply({ accessToken: "t", envVars: { A: "1" }, sandboxId: "s" });
  state.forget();
  for (const forgotten of [state, open()]) {
    expect(forgotten.mayPass(undefined)).toBe(true);
    expect([forgotten.envVars, forgotten.identity]).toEqual([{}, { sandboxId: undefined, templateId: undefined }]);
  }
  expect(readdirSync(join(folder, "state"))).toEqual([]);
  state.forget();
});

test.each(["", "{", "null", '{"accessToken":5}', '{"initialized":true}', '{"initialized":true,"envVars":{},"extra":1}', "\0\0\0"])(
  "a damaged file %j locks the agent rather than open it",
  (text) => {
    mkdirSync(join(folder, "state"));
    writeFileSync(path(), text);
    const state = open();
    expect(state.mayPass(undefined)).toBe(false);
    expect(state.mayPass("")).toBe(false);
    expect(state.mayInitialize(undefined, { accessToken: "mine" })).toBe(false);
  },
);

test("a file that cannot be read locks the agent too", () => {
  mkdirSync(path(), { recursive: true });
  expect(open().mayPass(undefined)).toBe(false);
});

test("without a token anybody may initialize again; with one only who knows it", () => {
  const state = open();
  expect(state.mayInitialize(undefined, {})).toBe(true);
  state.apply({});
  expect(state.mayInitialize(undefined, { accessToken: "t" })).toBe(true);
  state.apply({ accessToken: "t" });
  expect(state.mayInitialize(undefined, {})).toBe(false);
  expect(state.mayInitialize(["t", "t"], {})).toBe(false);
  expect(state.mayInitialize("t", { accessToken: "u" })).toBe(true);
  expect(state.mayInitialize(undefined, { accessToken: "t" })).toBe(true);
});

test("tokens are equal or not, of any length", () => {
  expect([sameToken("a", "a"), sameToken("a", "b"), sameToken("a", "aa"), sameToken("", "")]).toEqual([true, false, false, true]);
});

test("a hosts file has this machine's name once", () => {
  const once = hostsWith("127.0.0.1 localhost\n10.0.0.1 other\n", "sb1");
  expect(hostsWith(once, undefined)).toBe("127.0.0.1 localhost\n10.0.0.1 other\n");
  expect(once).toBe("127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1 sb1 # set by the sandbox\n");
  expect(hostsWith(once, "sb2")).toBe("127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1 sb2 # set by the sandbox\n");
});
