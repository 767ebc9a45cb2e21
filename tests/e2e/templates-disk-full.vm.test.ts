import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, statfs, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { GiB, must, poll, run as runCommand } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { begin, buildTimeoutMs, endOf, untilSaid, upload } from "../support/builds.ts";
import { TestPlatform } from "../support/test-platform.ts";

/** Builds on a host whose disk gets full: a platform on a file system of its own, which a file fills to the last block that guests may have. */
const diskBytes = 12 * GiB;
/** What a step writes in `MiB` where there is no room */
const writtenMib = 64;
/** How long a step waits in `s` before it goes on: time to see that it has begun, and to fill the disk */
const untilFullSec = 8;

let scratch = "";
let disk = "";
let platform: TestPlatform | undefined;
/** One that has nothing to do with any build */
let bystander: SandboxHandle | undefined;
const the = () => must(platform, "the platform");

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-e2e-full-"));
  disk = join(scratch, "disk");
  await mkdir(disk);
  await runCommand(["truncate", "-s", String(diskBytes), `${disk}.ext4`]);
  // What is reserved for root keeps the platform's own records going
  await runCommand(["mkfs.ext4", "-q", "-m", "2", `${disk}.ext4`]);
  await runCommand(["mount", "-o", "loop", `${disk}.ext4`, disk]);
  platform = await TestPlatform.start({}, disk);
  await the().untilMemoryImage();
  bystander = await the().sandbox({ timeout_sec: 0 });
  await bystander.exec("sync");
});
afterEach(async ({ task }) => {
  await makeRoom();
  if (task.result?.state === "fail") await the().saveEvidence(task.name);
  expect(await the().leftovers()).toEqual([]);
});
afterAll(async () => {
  await bystander?.delete();
  await platform?.[Symbol.asyncDispose]();
  await runCommand(["umount", disk]).catch(() => undefined); // set-up failed before it was mounted
  await rm(scratch, { recursive: true, force: true });
});

const filler = () => join(disk, "filler");

/** Leaves nothing for others than root. */
async function fill(): Promise<void> {
  const { bavail, bsize } = await statfs(disk);
  await runCommand(["fallocate", "-l", String(bavail * bsize), filler()]);
}

async function makeRoom(): Promise<void> {
  await rm(filler(), { force: true });
}

const run = (command: string) => ({ kind: "run" as const, command, user: "root" });
const full = expect.stringMatching(/the host's disk is full.*delete templates or sandboxes/) as string;

async function expectBystander(): Promise<void> {
  const { stdout } = await must(bystander, "the bystander").exec("echo", { args: ["still here"] });
  expect(stdout).toBe("still here\n");
}

test(
  "the disk gets full while a step runs: the build fails and says so, others go on, and with room again the same build is done",
  async () => {
    const recipe = {
      from: { template: "base" },
      steps: [run("echo first > /srv/first"), run(`echo begun; sleep ${untilFullSec}; cp /srv/first /srv/second`)],
    };
    const id = await begin(the(), "full", recipe);
    await untilSaid(the(), id, "1 begun");
    await fill();
    expect(await endOf(the(), id)).toMatchObject({ state: "failed", failure: { message: full } });
    await expectBystander();
    const refused = await endOf(the(), await begin(the(), "full", recipe));
    expect(refused).toMatchObject({ state: "failed", failure: { message: full } });
    await makeRoom();
    const build = await endOf(the(), await begin(the(), "full", recipe));
    expect(build).toMatchObject({ state: "ready", failure: null });
    expect(build.steps_cached).toBeGreaterThan(0);
  },
  buildTimeoutMs,
);

/** How often the platform has said that a guest waits for room */
const stalls = () => the().output.split("its disk cannot grow").length;
const writing = {
  from: { template: "base" },
  steps: [run(`echo begun; sleep ${untilFullSec}; dd if=/dev/urandom of=/srv/big bs=1M count=${writtenMib} conv=fsync; echo written`)],
};

test(
  "a step writes where there is no room: its guest stands still until there is, or until the build is cancelled",
  async () => {
    for (const end of ["ready", "cancelled"] as const) {
      const id = await begin(the(), "stalled", { ...writing, force: true });
      await untilSaid(the(), id, "0 begun");
      const before = stalls();
      await fill();
      await poll({ what: "the guest to stand still", timeoutMs: buildTimeoutMs, intervalMs: 100 }, async () =>
        stalls() > before ? true : undefined,
      );
      await expectBystander();
      if (end === "cancelled") await the().client.builds.cancel(id);
      else await makeRoom();
      expect(await endOf(the(), id)).toMatchObject({ state: end, failure: null });
      await makeRoom();
    }
  },
  buildTimeoutMs,
);

// Minutes: until the silence of its guest agent is believed
test.skipIf(process.env["BUILD_FAULTS"] !== "long")(
  "a step writes where there is no room, and never is: the build fails and says so",
  async () => {
    const id = await begin(the(), "given-up", { ...writing, force: true });
    await untilSaid(the(), id, "0 begun");
    await fill();
    expect(await endOf(the(), id)).toMatchObject({ state: "failed", failure: { step: "0", message: full } });
    await expectBystander();
  },
  2 * buildTimeoutMs,
);

test(
  "an image is not imported where there is no room, and is when there is",
  async () => {
    const image = await readFile(await writeImage());
    const archive = createHash("sha256").update(image).digest("hex");
    expect(await upload(the(), "imported", archive, image)).toBe("204");
    const build = async () => endOf(the(), await begin(the(), "imported", { from: { archive } }));
    await fill();
    expect(await build()).toMatchObject({ state: "failed", failure: { step: "base", message: full } });
    await expectBystander();
    await makeRoom();
    expect(await build()).toMatchObject({ state: "ready", failure: null });
  },
  buildTimeoutMs,
);

/** An image of one file, as `docker save` writes it. */
async function writeImage(): Promise<string> {
  const content = join(scratch, "content");
  const image = join(scratch, "image");
  for (const folder of [content, image]) await mkdir(folder);
  await writeFile(join(content, "hello"), "hello");
  await runCommand(["tar", "-cf", join(image, "layer.tar"), "-C", content, "hello"]);
  const diffId = `sha256:${createHash("sha256")
    .update(await readFile(join(image, "layer.tar")))
    .digest("hex")}`;
  const config = { os: "linux", architecture: "amd64", config: {}, rootfs: { type: "layers", diff_ids: [diffId] } };
  await writeFile(join(image, "config.json"), JSON.stringify(config));
  await writeFile(join(image, "manifest.json"), JSON.stringify([{ Config: "config.json", RepoTags: null, Layers: ["layer.tar"] }]));
  await runCommand(["tar", "-cf", `${image}.tar`, "-C", image, "."]);
  return `${image}.tar`;
}
