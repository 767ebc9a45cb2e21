import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

let cli: TestCli;
let id: string;
let folder: string;
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
  folder = await mkdtemp(join(tmpdir(), "roost-network-"));
});
afterEach(async () => {
  await cli[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const out = ({ stdout }: CliResult) => stdout.toString("utf8");
const json = async (args: readonly string[], input = "") => JSON.parse(out(await cli.run([...args, "--json"], { input }))) as unknown;

test("what a sandbox may reach is shown, and replaced as a whole", async () => {
  expect(out(await cli.run(["network", id.slice(0, 8)]))).toBe("internet  yes\n");
  const options = ["--no-internet", "--allow", "pypi.org", "--allow", "*.example.com", "--out-mbit", "10", "--connections", "20"];
  expect(out(await cli.run(["network", id, ...options]))).toBe(
    "internet     no\nallowed      pypi.org, *.example.com\nsends        10 Mbit/s\nconnections  20 at once\n",
  );
  expect(await json(["network", id, "--deny", "203.0.113.0/24", "--in-mbit", "5", "--connections-per-sec", "3"])).toMatchObject({
    allow_internet: true,
    allow_out: [],
    deny_out: ["203.0.113.0/24"],
    limits: { out_mbit_per_sec: null, in_mbit_per_sec: 5, connections: null, connections_per_sec: 3 },
  });
  expect(await json(["network", id])).toMatchObject({ deny_out: ["203.0.113.0/24"] });
  expect(await json(["network", id, "--open"])).toMatchObject({ deny_out: [], limits: { in_mbit_per_sec: null } });
});

test("a policy comes from a file, or stdin; options come on top; its secrets are not shown", async () => {
  const policy = JSON.stringify({
    allow_internet: false,
    egress_proxy: { address: "proxy.example.com:1080", username: "me", password: "hunter2hunter2" },
    limits: { connections: 7 },
  });
  const file = join(folder, "policy.json");
  await writeFile(file, policy);
  const shown = out(await cli.run(["network", id, "--policy", file, "--in-mbit", "9"]));
  expect(shown).toContain("socks5 me@proxy.example.com:1080");
  expect(shown).toContain("receives");
  expect(shown).not.toContain("hunter2");
  expect(await json(["network", id, "--policy", "-"], policy)).toMatchObject({ allow_internet: false, limits: { connections: 7 } });
  const wrong = await cli.run(["network", id, "--policy", "-"], { input: "[hunter2]" });
  expect(wrong.exitCode).toBe(2);
  expect(wrong.stderr).toContain("no network policy");
  expect(wrong.stderr).not.toContain("hunter2");
});

test("a new sandbox has the policy that its create asks for", async () => {
  const created = out(await cli.run(["create", "--no-internet", "--allow", "pypi.org", "--connections", "3"])).trim();
  expect(await json(["network", created])).toMatchObject({ allow_internet: false, allow_out: ["pypi.org"], limits: { connections: 3 } });
  const refused = await cli.run(["create", "--allow", "pypi.org"]);
  expect(refused.exitCode).not.toBe(0);
  expect(refused.stderr).toContain("domains are allowed out of what is denied");
});

test("headers to set take their values from the environment or a file, never from the command line, and are shown by name", async () => {
  const file = join(folder, "key");
  await writeFile(file, "file hunter2\n");
  const given = ["--header", "api.example.com:Authorization=env:API_KEY", "--header", `API.example.com:X-Key=file:${file}`];
  const options = { environment: { API_KEY: "Bearer hunter2" } };
  const shown = await cli.run(["network", id, ...given.slice(0, 2), "--header", `other.example.com:X-Key=file:${file}`], options);
  expect([shown.exitCode, out(shown)]).toEqual([
    0,
    "internet     yes\nheaders set  api.example.com (Authorization), other.example.com (X-Key)\n",
  ]);
  expect(cli.api.sandboxes.get(id).network.rules).toEqual({
    "api.example.com": { headers: { Authorization: "Bearer hunter2" } },
    "other.example.com": { headers: { "X-Key": "file hunter2" } },
  });
  for (const [header, text] of [
    ["api.example.com:Authorization=hunter2", "write it as DOMAIN:NAME=env:VARIABLE"],
    ["hunter2", "write it as DOMAIN:NAME=env:VARIABLE"],
    ["api.example.com:Authorization=env:NOT_THERE", "NOT_THERE is not set"],
  ] as const) {
    const wrong = await cli.run(["network", id, "--header", header]);
    expect([wrong.exitCode, wrong.stderr]).toEqual([2, expect.stringContaining(text)]);
    expect(wrong.stderr).not.toContain("hunter2");
  }
});
