import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { CommandError, run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

const bootstrap = fileURLToPath(new URL("bootstrap.sh", import.meta.url));
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

let scratch: string;
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-bootstrap-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

/** Runs it where it must refuse; `before` is shell code in a mount namespace of its own. */
async function refusal(before: string, env: Record<string, string> = {}): Promise<{ exitCode: number | null; message: string }> {
  // Whatever it would install is out of reach: a check that comes too late shows as another message.
  const closed = "mount -t tmpfs tmpfs /etc/apt && mount --bind /bin/false /usr/bin/apt-get";
  try {
    await run(["unshare", "--mount", "sh", "-ec", `${closed}\n${before}`, "sh", bootstrap], {
      env: { PATH: path, HOME: scratch, ...env },
      timeoutMs: 30_000,
    });
  } catch (error) {
    if (error instanceof CommandError) return { exitCode: error.exitCode, message: error.stderr };
    throw error;
  }
  throw new Error("it did not refuse");
}

const start = 'exec bash "$1"';

test("without root it says so", async () => {
  const { exitCode, message } = await refusal('exec setpriv --reuid 65534 --regid 65534 --clear-groups bash "$1"');
  expect(exitCode).toBe(1);
  expect(message).toContain("it needs root");
  expect(message).toContain("sudo");
});

test.each([
  ["ID=ubuntu\nVERSION_ID=24.04\n", "this is ubuntu 24.04"],
  ["ID=debian\nVERSION_ID=11\nVERSION_CODENAME=bullseye\n", "this is debian 11"],
])("on another system than Debian 12 or newer it says so (%j)", async (osRelease, expected) => {
  await writeFile(join(scratch, "os-release"), osRelease);
  const { exitCode, message } = await refusal(`mount --bind ${scratch}/os-release "$(readlink -f /etc/os-release)"\n${start}`);
  expect(exitCode).toBe(1);
  expect(message).toContain(expected);
});

test("with an old Node.js it says which one it needs", async () => {
  await mkdir(join(scratch, "bin"));
  await writeFile(join(scratch, "bin/node"), "#!/bin/sh\necho v18.20.4\n", { mode: 0o755 });
  const { exitCode, message } = await refusal(start, { PATH: `${scratch}/bin:${path}` });
  expect(exitCode).toBe(1);
  expect(message).toMatch(/needs Node.js 20\.\S+ or newer, and this is 18\.20\.4/);
});

test("with too little disk space it says where and how much, and has made nothing", async () => {
  await mkdir(join(scratch, "small"));
  const { exitCode, message } = await refusal(`mount -t tmpfs -o size=8m tmpfs ${scratch}/small\n${start}`, {
    ROOST_CACHE_DIR: join(scratch, "small/cache"),
    ROOST_DIR: join(scratch, "small/state"),
  });
  expect(exitCode).toBe(1);
  expect(message).toMatch(/small\/cache needs \d+ GiB of free disk space, and has 0 GiB/);
  expect(message).toContain("ROOST_CACHE_DIR");
  expect(await readdir(join(scratch, "small"))).toEqual([]);
});

test("an unknown option is refused", async () => {
  await expect(run(["bash", bootstrap, "--with-everything"])).rejects.toThrow("unknown option --with-everything");
});

const deb822 = `# Debian's own
Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
`;

test.each([
  ["debian.sources", deb822],
  [
    "debian.list",
    "deb http://mirror.example/debian bookworm main\n" +
      "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main\n",
  ],
])("the source of backports is derived from %s", async (name, text) => {
  await mkdir(join(scratch, "apt/sources.list.d"), { recursive: true });
  await writeFile(join(scratch, "apt/sources.list.d", name), text);
  const derive = `mount --bind ${scratch}/apt /etc/apt
    eval "$(sed -n '/^backports_source()/,/^}/p' "$1")"
    scratch=${scratch} codename=bookworm
    backports_source`;
  const source = await run(["unshare", "--mount", "bash", "-ec", derive, "bash", bootstrap]);
  expect(source.trim().split("\n").sort()).toEqual(
    [
      "Types: deb",
      "URIs: http://mirror.example/debian",
      "Suites: bookworm-backports",
      "Components: main",
      "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
    ].sort(),
  );
});
