import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { linkSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import type { Build } from "@roost/contract";
import { MiB, must, poll } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { begin, buildTimeoutMs, endOf, upload } from "../support/builds.ts";
import { usePlatform } from "../support/platform.ts";
import { openRaw, rawTarget, requestBytes } from "../support/raw-client.ts";

/** Archives that nobody honest uploads, in builds. All may have 4 MiB, so one 2 MiB. */
const platform = usePlatform({ ROOST_BUILD_FILES_MIB: "4" });
const archiveBytesMax = 2 * MiB;
/** Growth of the platform's memory that is no archive's doing, in `bytes`: what the others of a test's requests take */
const memoryNoiseBytes = 256 * MiB;

/** Of a test that writes a guest's disk full in `ms` */
const longTimeoutMs = 4 * buildTimeoutMs;

const name = "uploads";
const hashOf = (data: Buffer) => createHash("sha256").update(data).digest("hex");

let folder = "";
beforeAll(async () => {
  await platform().untilMemoryImage();
  folder = mkdtempSync(join(tmpdir(), "roost-e2e-uploads-"));
  writeFileSync(join(folder, "payload"), "payload\n");
  linkSync(join(folder, "payload"), join(folder, "twin"));
  symlinkSync("/etc", join(folder, "link"));
  execFileSync("mknod", [join(folder, "disk"), "b", "254", "0"]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the platform keeps of uploads: `<template>/<hash>`, and what is half there. */
async function kept(): Promise<string[]> {
  const root = join(platform().folder, "build-files");
  const names = await readdir(root, { recursive: true }).catch(() => []); // nothing was uploaded yet
  return names.filter((path) => path.includes("/"));
}
beforeEach(async () => {
  for (const path of await kept()) rmSync(join(platform().folder, "build-files", path));
});

/** A tar of files of the folder, whose names and links `transform` changes as GNU tar's option does. */
function crafted(transform: string, ...entries: readonly string[]): Buffer {
  return execFileSync("tar", ["-c", "-P", "-f", "-", "-C", folder, `--transform=${transform}`, ...entries]);
}

const run = (command: string) => ({ kind: "run" as const, command, user: "root" });
const copyOf = (archive: Buffer) => ({ kind: "copy" as const, files: hashOf(archive), source: ".", destination: "/srv/in/", user: "root" });

/** Builds with a copy of these bytes to /srv/in/, after and before commands. */
async function copied(archive: Buffer, first: readonly string[] = [], last: readonly string[] = []): Promise<Build> {
  expect(await upload(platform(), name, hashOf(archive), archive)).toBe("204");
  const steps = [...first.map(run), copyOf(archive), ...last.map(run)];
  return endOf(platform(), await begin(platform(), name, { from: { template: "base" }, steps }), longTimeoutMs);
}

test("too large, too many, cut off, of another length: refused, and nothing of it is kept", async () => {
  const small = Buffer.alloc(1024, "x");
  expect(await upload(platform(), name, "1".repeat(64), Buffer.alloc(archiveBytesMax + 1))).toBe("413 request_too_large");
  expect(await upload(platform(), name, "not-a-hash", small)).toBe("400 request_invalid");
  expect(await kept()).toEqual([]);
  for (const digit of ["1", "2"]) expect(await upload(platform(), name, digit.repeat(64), Buffer.alloc(archiveBytesMax))).toBe("204");
  expect(await upload(platform(), name, "3".repeat(64), small)).toBe("507 host_disk_full");
  expect(await kept()).toHaveLength(2);
  for (const path of await kept()) rmSync(join(platform().folder, "build-files", path));

  const apiKey = readFileSync(join(platform().folder, "api-key"), "utf8").trim();
  const headers = { "x-api-key": apiKey, "content-type": "application/octet-stream" };
  const path = `/v1/templates/files/${"4".repeat(64)}?name=${name}`;
  const target = rawTarget(platform().client.url);
  const cut = await openRaw(target);
  cut.write(requestBytes("PUT", path, { ...headers, "content-length": String(archiveBytesMax) }, small));
  await poll({ what: "the upload to have begun", timeoutMs: 30_000 }, async () => ((await kept()).length > 0 ? true : undefined));
  cut.destroy();
  await poll({ what: "what was cut off to be gone", timeoutMs: 30_000 }, async () => ((await kept()).length === 0 ? true : undefined));
});

test(
  "names that lead out, links to elsewhere, devices: the build fails and says what it is",
  async () => {
    const attempts: readonly (readonly [Buffer, RegExp])[] = [
      [crafted("flags=r;s,payload,../../etc/cron.d/out,", "payload"), /name that leads out of it/],
      [gzipSync(crafted("flags=r;s,payload,/etc/cron.d/out,", "payload")), /name that leads out of it/],
      [crafted("flags=r;s,payload,link/cron.d/out,", "link", "payload"), /no entry may go through a link/],
      [crafted("flags=h;s,payload,/etc/shadow,", "payload", "twin"), /hard link to a file outside/],
      [crafted("s,x,x,", "disk"), /a device, a pipe or a socket: disk/],
    ];
    for (const [archive, message] of attempts) {
      const build = await copied(archive);
      expect(build).toMatchObject({ state: "failed", failure: { step: "0", message: expect.stringMatching(message) as string } });
      expect(build.failure?.message).toMatch(/^COPY \. \/srv\/in\//);
    }
  },
  buildTimeoutMs,
);

test(
  "no archive at all, and half of one",
  async () => {
    const noise = randomBytes(100_000);
    const whole = gzipSync(Buffer.concat([crafted("s,x,x,", "payload").subarray(0, 512), noise]));
    for (const archive of [noise, Buffer.alloc(0), Buffer.concat([Buffer.from([0x1f, 0x8b]), noise]), whole.subarray(0, 50_000)]) {
      const build = await copied(archive);
      expect(build).toMatchObject({ state: "failed", failure: { step: "0", message: expect.stringMatching(/: .*tar: /) as string } });
    }
  },
  buildTimeoutMs,
);

/** Leaves a guest `200 MiB`, so that its disk is full soon */
const littleRoom = "fallocate -l $(( $(stat -f -c %a /) * $(stat -f -c %S /) - 200 * 1024 * 1024 )) /var/tmp/filler";
const bombs = [
  { what: "a small disk", mib: 1_000, program: "gzip", first: [littleRoom] },
  // Writes all of a guest's disk: minutes
  ...(process.env["BUILD_FAULTS"] === "long" ? [{ what: "a whole disk", mib: 20_000, program: "bzip2", first: [] } as const] : []),
] as const;
test.each(bombs)(
  "a bomb fills $what of its guest and nothing else",
  async ({ mib, program, first }) => {
    const bomb = bombOf(mib, program);
    expect(bomb.length).toBeLessThan(archiveBytesMax);
    const pid = platform().pid;
    await writeFile(`/proc/${pid}/clear_refs`, "5"); // the peak is counted from now on
    const memoryBefore = await peakMemory(pid);
    const build = await copied(bomb, first);
    const message = expect.stringMatching(/No space left on device/) as string;
    expect(build).toMatchObject({ state: "failed", failure: { step: String(first.length), message } });
    expect((await peakMemory(pid)) - memoryBefore).toBeLessThan(memoryNoiseBytes);
  },
  longTimeoutMs,
);

test(
  "an honest one with links is copied as it is, and nothing else changes",
  async () => {
    const watched = "{ stat -c '%n %i %h %U %a' /etc /etc/passwd /etc/shadow /tmp; ls -A / /etc /tmp; }";
    const build = await copied(
      gzipSync(crafted("s,x,x,", "payload", "twin", "link")),
      [`${watched} > /var/tmp/before`],
      [`${watched} | diff /var/tmp/before -`, "cd /srv/in && grep payload twin && test payload -ef twin && test $(readlink link) = /etc"],
    );
    expect(build).toMatchObject({ state: "ready", failure: null });
  },
  buildTimeoutMs,
);

/** A tar of one file of so many `MiB` of zeros, compressed piece by piece, which is as good as at once. */
function bombOf(mib: number, program: "gzip" | "bzip2"): Buffer {
  const pieceMib = 100;
  const zeros = join(folder, "zeros");
  execFileSync("truncate", ["-s", `${mib}M`, zeros]);
  const compressed = (command: string) => execFileSync("sh", ["-c", `${command} | ${program} -9`, "sh", folder], { maxBuffer: 64 * MiB });
  const head = compressed('tar -c -f - -C "$1" zeros | head -c 512');
  const piece = compressed(`head -c ${pieceMib}M /dev/zero`);
  rmSync(zeros);
  return Buffer.concat([head, ...Array.from({ length: mib / pieceMib }, () => piece)]);
}

/** Most memory that a process has used, in `bytes`. */
async function peakMemory(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(must(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1], "its peak")) * 1024;
}
