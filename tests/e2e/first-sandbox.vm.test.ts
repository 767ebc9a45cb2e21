import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { roost } from "../support/cli.ts";
import { usePlatform, useSandbox } from "../support/platform.ts";

const platform = usePlatform();
let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-test-"));
});
afterAll(async () => {
  await rm(scratch, { recursive: true, force: true });
});

describe("roost run", () => {
  test("shows the guest's own kernel, not the host's", async () => {
    const { stdout, exitCode, stderr } = await roost(platform(), ["run", "--", "sh", "-c", "uname -a; cat /proc/cpuinfo | head"]);
    expect(exitCode, stderr).toBe(0);
    expect(stdout.toString()).toMatch(/^Linux \S+ \d+\.\d+.*-cloud-amd64/);
    expect(stdout.toString()).not.toContain(release());
    expect(stdout.toString()).toMatch(/^processor\s*: 0$/m);
  });

  test("exits as its command does and leaves no sandbox behind", async () => {
    const { exitCode } = await roost(platform(), ["run", "--", "sh", "-c", "exit 7"]);
    expect(exitCode).toBe(7);
    const { stdout } = await roost(platform(), ["ls", "--json"]);
    expect(JSON.parse(stdout.toString())).toEqual([]);
  });
});

describe("bytes", () => {
  const sandbox = useSandbox(platform);

  test("50 MB of random bytes go up and down byte-exact", async () => {
    const file = join(scratch, "random");
    const bytes = randomBytes(50_000_000);
    await writeFile(file, bytes);
    const up = await roost(platform(), ["cp", file, `${sandbox().id}:/tmp/random`]);
    expect(up.exitCode, up.stderr).toBe(0);

    const inGuest = await sandbox().exec("sha256sum", { args: ["/tmp/random"], timeout_sec: 120 });
    expect(inGuest.stdout.split(" ")[0]).toBe(createHash("sha256").update(bytes).digest("hex"));

    const down = await roost(platform(), ["cp", `${sandbox().id}:/tmp/random`, `${file}.back`]);
    expect(down.exitCode, down.stderr).toBe(0);
    expect((await readFile(`${file}.back`)).equals(bytes)).toBe(true);
  });

  test("100 MB of standard output arrive whole and in order", async () => {
    // Numbered lines: a lost, repeated or reordered chunk changes the digest of the whole.
    const lines = 12_500_000; // 101 MB
    const { stdout, exitCode, stderr } = await roost(platform(), ["exec", sandbox().id, "--", "seq", "1", String(lines)]);
    expect(exitCode, stderr).toBe(0);
    expect(stdout.length).toBeGreaterThan(100_000_000);
    const expected = createHash("sha256");
    for (let start = 1; start <= lines; start += 100_000) {
      const end = Math.min(start + 99_999, lines);
      let block = "";
      for (let line = start; line <= end; line += 1) block += `${line}\n`;
      expected.update(block);
    }
    expect(createHash("sha256").update(stdout).digest("hex")).toBe(expected.digest("hex"));
  }, 300_000);

  test("standard input reaches the command byte for byte", async () => {
    const input = randomBytes(3_000_000);
    const { stdout, exitCode, stderr } = await roost(platform(), ["exec", "-i", sandbox().id, "--", "cat"], input);
    expect(exitCode, stderr).toBe(0);
    expect(stdout.equals(input)).toBe(true);
  });

  test("a folder goes up and comes back with its names, modes and links", async () => {
    const folder = join(scratch, "folder");
    const make = await roost(platform(), [
      "exec",
      sandbox().id,
      "--",
      "sh",
      "-c",
      "mkdir -p t/a/b; echo one > t/a/1; echo two > t/a/b/2; chmod 750 t/a/1; ln -s 1 t/a/link; : > 't/a b'",
    ]);
    expect(make.exitCode, make.stderr).toBe(0);
    const down = await roost(platform(), ["cp", `${sandbox().id}:t`, folder]);
    expect(down.exitCode, down.stderr).toBe(0);
    expect(await readFile(join(folder, "a/b/2"), "utf8")).toBe("two\n");
    const up = await roost(platform(), ["cp", folder, `${sandbox().id}:u`]);
    expect(up.exitCode, up.stderr).toBe(0);
    const list = (of: string) => sandbox().exec("sh", { args: ["-c", `cd ${of} && find . -printf '%p %y %m %l\\n' | sort`] });
    expect((await list("u")).stdout).toBe((await list("t")).stdout);
  });

  test("a part of a file can be read", async () => {
    const whole = await sandbox().files.readText("/etc/os-release");
    expect((await sandbox().files.readBytes("/etc/os-release", { start: 4, end: 9 })).toString()).toBe(whole.slice(4, 10));
  });

  test("a stream up needs no known length", async () => {
    const file = join(scratch, "random");
    const entry = await sandbox().files.write("/tmp/streamed", createReadStream(file));
    expect(entry.size).toBe(50_000_000);
  });
});
