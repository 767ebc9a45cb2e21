import type { AuditEntryView } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const books = () => cli.api.sandboxes.books;
const hash = "ab".repeat(32);

function entry(number: number, more: Partial<AuditEntryView> = {}): AuditEntryView {
  return {
    number,
    time: new Date().toISOString(),
    actor: { kind: "api_key", id: "kone", name: "evil\u001b[2J" },
    action: "sandbox.create",
    resource: { kind: "sandbox", id: `i${number}` },
    scope: "team",
    status: "success",
    request_id: "req_1",
    address: "192.0.2.1",
    detail: {},
    previous_hash: hash,
    hash,
    ...more,
  };
}

test("audit ls shows who did what, across pages, and nothing that a terminal would obey", async () => {
  books().entries = [entry(3, { status: "failure", detail: { error: "scope_missing" } }), entry(2), entry(1)];
  const listed = out(await cli.run(["audit", "ls"]));
  expect(listed).toMatch(/NUMBER.*WHO.*ACTION/);
  expect(listed).toMatch(/3 .*evil\\x1b\[2J.*sandbox\.create ✗.*i3.*192\.0\.2\.1.*error=scope_missing/);
  expect(out(await cli.run(["audit", "ls", "--limit", "2", "--json"]))).toBe(`${JSON.stringify(books().entries.slice(0, 2))}\n`);
  await cli.run(["audit", "ls", "--failed", "--platform", "--actor", "kone", "--action", "key.create", "--resource", "i3"]);
  expect(books().asked.at(-1)?.query).toMatchObject({
    status: "failure",
    log: "platform",
    actor: "kone",
    action: "key.create",
    resource_id: "i3",
  });
  expect(await cli.run(["audit", "ls", "--action", "sandbox.fly"])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining("sandbox.delete"),
  });
  books().entries = [];
  expect((await cli.run(["audit", "ls"])).stderr).toContain("nothing of that");
});

const verified = {
  is_intact: true,
  is_complete: true,
  kept_from: 1,
  checked_to: 4,
  checked_to_hash: hash,
  checked: 2,
  broken_at: null,
  problem: null,
};

test("audit verify follows the chain to its end, and prints what to know of it", async () => {
  books().verifications = [{ ...verified, is_complete: false, checked_to: 2 }, verified];
  const result = await cli.run(["audit", "verify"]);
  expect(result.exitCode).toBe(0);
  expect(out(result)).toBe(`intact: 4 entries from 1, the last is 4:${hash}\n`);
  expect(books().asked.map(({ query }) => query)).toEqual([
    { log: "team", after: "0" },
    { log: "team", after: "2", after_hash: hash },
  ]);
});

test("audit verify names the first broken entry, and ends with 1", async () => {
  const broken = { ...verified, is_intact: false, is_complete: false, broken_at: 3, problem: "it was changed" };
  books().verifications = [broken, broken];
  const result = await cli.run(["audit", "verify", "--known", `1:${hash}`]);
  expect(result.exitCode).toBe(1);
  expect(out(result)).toBe("broken at entry 3: it was changed; 2 entries before it are right\n");
  expect(books().asked.at(-1)?.query).toEqual({ log: "team", after: "1", after_hash: hash });
  expect((await cli.run(["audit", "verify", "--json"])).exitCode).toBe(1);
  expect(await cli.run(["audit", "verify", "--known", "3"])).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("NUMBER:HASH") });
});

test("usage is in hours, with its sum; stats tell now, most and over time", async () => {
  const usage = out(await cli.run(["usage", "--from", "2026-03-01", "--to", "2026-03-03", "--by", "template"]));
  expect(usage).toMatch(/TEMPLATE +SANDBOX HOURS +VCPU HOURS +MEMORY GIB HOURS/);
  expect(usage).toMatch(/total +2\.000 +4\.000 +1\.000 +0\.000/);
  expect(books().asked.at(-1)?.query).toEqual({ from: "2026-03-01", to: "2026-03-03", group: "template" });
  const stats = await cli.run(["stats", "--range", "24h"]);
  expect(out(stats)).toMatch(/sandboxes +2 +2 +█/);
  expect(stats.stderr).toContain("3 paused");
  expect(books().asked.at(-1)?.query).toEqual({ range: "24h" });
  expect((await cli.run(["usage", "--by", "week"])).exitCode).toBe(2);
});
