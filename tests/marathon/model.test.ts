import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { MarathonModel } from "./model.ts";
import { appliedSchema, askCommand, checkedSchema, parseAnswer, startCommand, type Checked } from "./program-client.ts";

const program = join(import.meta.dirname, "guest-program.py");
const run = promisify(execFile);

let folder: string;
let port: number;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "roost-marathon-"));
  start();
});
afterEach(async () => {
  await ask("quit");
  rmSync(folder, { recursive: true });
});

function start(): void {
  const { cmd, args } = startCommand(program, folder, 0);
  const said = execFileSync(cmd, args, { encoding: "utf8" });
  port = Number(/^listening on (?<port>\d+)$/m.exec(said)?.groups?.["port"]);
}

async function ask(command: string): Promise<string> {
  const { cmd, args } = askCommand(port, command);
  return (await run(cmd, [...args])).stdout;
}
const apply = async (seed: number, count: number) => parseAnswer(appliedSchema, await ask(`apply ${seed} ${count}`));
const check = async (how = ""): Promise<Checked> => parseAnswer(checkedSchema, await ask(`check ${how}`));

test("program and model agree after every step, whatever the seed", async () => {
  const random = new SeededRandom();
  const model = new MarathonModel();
  for (let step = 0; step < 25; step += 1) {
    const [seed, count] = [random.integer(2 ** 31), 1 + random.integer(60)];
    const why = `SEED=${random.seed} replays this; step ${step}: apply ${seed} ${count}`;
    const expected = model.apply(seed, count);
    expect(await apply(seed, count), why).toEqual(expected);
    const { state, damage } = await check(step % 3 === 0 ? "cold" : "");
    expect(state, why).toEqual(model.state());
    expect(damage, why).toEqual([]);
  }
  expect((await check("detail")).state).toEqual(model.state(true));
});

test("a clone goes its own way", () => {
  const model = new MarathonModel();
  model.apply(1, 300);
  const clone = model.clone();
  const before = clone.state(true);
  expect(before).toEqual(model.state(true));
  model.apply(2, 300);
  expect(clone.state(true)).toEqual(before);
  clone.apply(2, 300);
  expect(clone.state(true)).toEqual(model.state(true));
});

test("after it was killed the program knows what was on its disk, as the model says", async () => {
  const model = new MarathonModel();
  for (let seed = 100; seed < 110; seed += 1) {
    model.apply(seed, 100);
    await apply(seed, 100);
  }
  const { pid, instance } = (await check()).observed;
  process.kill(pid, "SIGKILL");
  rmSync(`/dev/shm/marathon-${instance}`);
  start();
  const restarted = model.restarted();
  expect((await check("cold detail")).state).toEqual(restarted.state(true));
  expect(await apply(1, 50)).toEqual(restarted.apply(1, 50));
  expect((await check()).state).toEqual(restarted.state());
});

test("what changes behind the program's back is seen", async () => {
  const model = new MarathonModel();
  model.apply(7, 200);
  await apply(7, 200);
  const [name] = readdirSync(join(folder, "files"));
  const path = join(folder, "files", name ?? "");
  const bytes = readFileSync(path);
  bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1);
  writeFileSync(path, bytes);
  const { state } = await check("cold");
  expect(state["files"]).not.toBe(model.state()["files"]);
  expect({ ...state, files: "" }).toEqual({ ...model.state(), files: "" });
});

test("the state is of megabytes, and of every kind", () => {
  const model = new MarathonModel();
  for (let seed = 0; seed < 20; seed += 1) model.apply(seed, 60);
  const state = model.state(true) as Record<string, [string | number, number, number][]>;
  const bytes = (part: string) => state[part]?.reduce((sum, [, length]) => sum + length, 0) ?? 0;
  expect(bytes("blocks")).toBeGreaterThan(3_000_000);
  expect(bytes("files")).toBeGreaterThan(2_000_000);
  expect(state["table"]?.length).toBeGreaterThan(20);
  expect(Number(state["wal"]?.[0])).toBeGreaterThan(50);
  expect(Number(state["rollback"]?.[0])).toBeGreaterThan(50);
});

test("a command it does not know is an error", async () => {
  await expect(ask("fly").then((answer) => parseAnswer(checkedSchema, answer))).rejects.toThrow("no such command: fly");
});
