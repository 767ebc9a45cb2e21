import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
let id: string;
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
});
afterEach(() => cli[Symbol.asyncDispose]());

test("prints the token alone, as long as it is not rotated", async () => {
  const first = await cli.run(["traffic-token", id.slice(0, 8)]);
  expect(first).toMatchObject({ exitCode: 0, stderr: "" });
  const token = first.stdout.toString().trim();
  expect(token).toMatch(/^\S{20,}$/);
  expect((await cli.run(["traffic-token", id])).stdout.toString().trim()).toBe(token);
  const rotated = await cli.run(["traffic-token", id, "--rotate", "--json"]);
  const given = JSON.parse(rotated.stdout.toString()) as { token: string; header: string };
  expect(given.header).toBe("roost-traffic-token");
  expect(given.token).not.toBe(token);
  expect((await cli.run(["traffic-token", id])).stdout.toString().trim()).toBe(given.token);
});

test("of a sandbox that is not there is an error", async () => {
  expect(await cli.run(["traffic-token", "izz"])).toMatchObject({ exitCode: 1 });
});
