import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const all = () => [...cli.api.sandboxes.keys.all.values()];

test("create prints the key alone on standard output, and what it may on the other", async () => {
  const made = await cli.run([
    "key",
    "create",
    "ci",
    "--scopes",
    "sandboxes:read,events:read",
    "--scopes",
    "usage:read",
    "--expires",
    "2d",
  ]);
  expect(out(made)).toMatch(/^roost_[0-9a-f]{40}\n$/);
  const [key] = all();
  expect(key).toMatchObject({ name: "ci", scopes: ["sandboxes:read", "events:read", "usage:read"] });
  expect(Date.parse(key?.expires_at ?? "") - Date.parse(key?.created_at ?? "")).toBeGreaterThanOrEqual(2 * 86_400_000);
  expect(made.stderr).toContain(`${key?.id}`);
  expect(made.stderr).toContain("shown only now");
  const asJson = JSON.parse(out(await cli.run(["key", "create", "usual", "--json"]))) as Record<string, unknown>;
  expect(asJson).toMatchObject({ name: "usual", key: expect.stringMatching(/^roost_/), expires_at: null });
});

test("what is no scope or no time never gets to the platform", async () => {
  expect(await cli.run(["key", "create", "x", "--scopes", "sandboxes:fly"])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(/no scope "sandboxes:fly"[^]*sandboxes:read/),
  });
  expect(await cli.run(["key", "create", "x", "--expires", "soon"])).toMatchObject({ exitCode: 2 });
  expect((await cli.run(["key", "create"])).exitCode).toBe(2);
  expect(all()).toEqual([]);
});

test("ls shows no key, and what people wrote harmlessly", async () => {
  expect((await cli.run(["key", "ls"])).stderr).toContain("no API keys");
  const secret = out(await cli.run(["key", "create", "evil\u001b[2Jname", "--scopes", "sandboxes:read"])).trim();
  const listed = out(await cli.run(["key", "ls"]));
  expect(listed).toContain("evil\\x1b[2Jname");
  expect(listed).toMatch(/USED.*EXPIRES.*SCOPES\n.*never.*never.*sandboxes:read/);
  expect(listed).toContain(`${secret.slice(0, 12)}…`);
  expect(listed + out(await cli.run(["key", "ls", "--json"]))).not.toContain(secret);
  expect(out(await cli.run(["key", "ls", "-q"]))).toBe(`${all()[0]?.id}\n`);
});

test("rm takes ids, beginnings and names, and refuses what may be several", async () => {
  for (const name of ["one", "two", "three", "same", "same"]) await cli.run(["key", "create", name]);
  const [one, two] = all();
  expect(
    out(await cli.run(["key", "rm", `${one?.id}`, `${two?.id.slice(0, 12)}`, "three"]))
      .trim()
      .split("\n"),
  ).toHaveLength(3);
  expect(all().map(({ name }) => name)).toEqual(["same", "same"]);
  expect(await cli.run(["key", "rm", "same"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("may be 2 keys") });
  expect(await cli.run(["key", "rm", "gone"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("`roost key ls`") });
  expect(all()).toHaveLength(2);
});
