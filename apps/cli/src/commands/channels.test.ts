import { EventEmitter } from "node:events";

import { channelKinds, deliveryStates } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { channelKindNames, deliveryStateNames } from "../program/channel-commands.ts";
import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => (cli = await TestCli.start()));
afterEach(async () => cli[Symbol.asyncDispose]());

const run = async (...args: string[]) => {
  const { exitCode, stdout, stderr } = await cli.run(args);
  return { exitCode, out: stdout.toString("utf8"), stderr };
};

test("choices are those of the contract", () => {
  expect(channelKindNames).toEqual([...channelKinds]);
  expect(deliveryStateNames).toEqual([...deliveryStates]);
});

test("add prints the secret alone; ls, test, rotate and rm know a channel by its name", async () => {
  const added = await run("channel", "add", "ops", "https://hooks.example/x", "--events", "sandbox.failed,host.*", "--platform-events");
  expect(added).toMatchObject({ exitCode: 0, out: expect.stringMatching(/^whsec_\S+\n$/) });
  const [channel] = cli.api.sandboxes.channels.all.values();
  expect(channel).toMatchObject({ name: "ops", kind: "webhook", kinds: ["sandbox.failed", "host.*"], platform_events: true });
  const listed = await run("channel", "ls");
  expect(listed.out).toContain("https://hooks.example");
  expect(listed.out).toContain("sandbox.failed host.*");
  expect((await run("channel", "test", "ops")).out).toContain("status 200");
  expect((await run("channel", "rotate", "ops")).out).toMatch(/^whsec_\S+\n$/);
  expect(await run("channel", "rm", channel?.id ?? "")).toMatchObject({ exitCode: 0, out: `${channel?.id}\n` });
  expect(await run("channel", "test", "ops")).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('no channel "ops"') });
});

test("of a chat there is no secret; its configuration is given by name", async () => {
  const token = `1:${"a".repeat(30)}`;
  const added = await run("channel", "add", "phone", "--kind", "telegram", "--config", `bot_token=${token}`, "--config", "chat_id=-1");
  const [channel] = cli.api.sandboxes.channels.all.values();
  expect(added).toMatchObject({ exitCode: 0, out: `${channel?.id}\n` });
  expect(added.stderr).not.toContain(token);
});

test("a test that is not taken is a failure", async () => {
  await run("channel", "add", "ops", "https://hooks.example/x");
  cli.api.sandboxes.channels.testStatus = 500;
  const tested = await run("channel", "test", "ops", "--json");
  expect(tested.exitCode).toBe(1);
  expect(JSON.parse(tested.out)).toMatchObject({ delivered: false, status: 500 });
});

test("deliveries are listed, and retried", async () => {
  await run("channel", "add", "ops", "https://hooks.example/x");
  const { id } = cli.api.sandboxes.channels.fail();
  expect((await run("channel", "deliveries", "ops", "--state", "failed")).out).toContain("it answered with status 500");
  expect(await run("channel", "retry", "ops", id)).toMatchObject({ exitCode: 0, out: `${id}\n` });
  expect((await run("channel", "deliveries", "ops", "--state", "failed")).stderr).toContain("nothing was sent");
});

test("events --follow prints what happens until it is interrupted", async () => {
  const { id } = await cli.sandbox();
  cli.api.sandboxes.saving.happen("sandbox.paused", id, "before");
  const signals = new EventEmitter();
  const result = await cli.run(["events", id, "--follow", "--after", "0", "--json"], {
    signals,
    onStdout: (text) => {
      if (text.includes("before")) cli.api.sandboxes.saving.happen("sandbox.resumed", id, "now");
      if (text.includes("now")) signals.emit("SIGINT");
    },
  });
  expect(result.exitCode).toBe(130);
  const lines = result.stdout.toString("utf8").trim().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { message: string }).message)).toEqual(["before", "now"]);
});
