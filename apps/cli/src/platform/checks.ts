import { constants } from "node:fs";
import { access, readFile, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { release } from "node:os";
import { dirname, join } from "node:path";

import { imageSetFileName, imageSetSchema } from "@roost/contract";
import { formatBytes, GiB, run } from "@roost/kit";

import { findPortOwner } from "./port-owner.ts";

export interface Check {
  readonly name: string;
  readonly status: "ok" | "warn" | "fail";
  readonly detail: string;
  /** What to do about it; absent when all is well. */
  readonly fix?: string;
}

/** Oldest QEMU whose memory files can be opened read-only and mapped privately. */
const qemuVersionMin = [8, 2] as const;
const commandTimeoutMs = 10_000;
/** Free space in `bytes` below which new sandboxes soon fail. */
const diskFreeWarn = 5 * GiB;
const diskFreeFail = 1 * GiB;

export interface Listen {
  readonly host: string;
  /** 0 is any free one. */
  readonly port: number;
}

interface Folders {
  readonly dir: string;
  readonly cacheDir: string;
}

/** What must hold before a platform can start here. The order is that in which problems are best solved. */
export async function requiredChecks(folders: Folders, listen: Listen): Promise<Check[]> {
  return [...(await machineChecks(folders)), await checkPort(listen)];
}

/** What a machine must have to hold sandboxes. */
export async function machineChecks(folders: Folders): Promise<Check[]> {
  return Promise.all([
    checkSystem(),
    checkRoot(),
    checkQemu(),
    checkTool("qemu-img", ["--version"], "disks are made with it"),
    checkTool("nft", ["--version"], "sandboxes' networks are guarded with it"),
    checkTool("ip", ["-V"], "sandboxes' networks are made with it"),
    checkTool("conntrack", ["--version"], "what sandboxes leave in the host's connection table is removed with it"),
    checkImages(folders.cacheDir),
    checkDiskSpace("state folder", folders.dir),
  ]);
}

export async function checkSystem(): Promise<Check> {
  const name = "system";
  const isRight = process.platform === "linux" && process.arch === "x64";
  const detail = `${process.platform} ${process.arch}, kernel ${release()}`;
  return isRight ? { name, status: "ok", detail } : { name, status: "fail", detail, fix: "use a Linux machine with an x86-64 processor" };
}

export async function checkRoot(): Promise<Check> {
  const uid = process.getuid?.() ?? -1;
  if (uid === 0) return { name: "root", status: "ok", detail: "running as root" };
  return { name: "root", status: "fail", detail: `running as uid ${uid}`, fix: "run this command as root, for instance with sudo" };
}

export async function checkQemu(): Promise<Check> {
  const name = "QEMU";
  const fix = "run `npm run quickstart` or tools/bootstrap.sh, which install it (on Debian 12 from backports)";
  const wanted = `${qemuVersionMin.join(".")} or newer`;
  const text = await run(["qemu-system-x86_64", "--version"], { timeoutMs: commandTimeoutMs }).catch(() => undefined);
  if (text === undefined) return { name, status: "fail", detail: `not installed; ${wanted} is needed`, fix };
  const match = /version (\d+)\.(\d+)(?:\.\d+)?/.exec(text);
  const [major, minor] = [Number(match?.[1]), Number(match?.[2])];
  const isNewEnough = major > qemuVersionMin[0] || (major === qemuVersionMin[0] && minor >= qemuVersionMin[1]);
  if (!isNewEnough) return { name, status: "fail", detail: `${match?.[0] ?? "unknown version"}; ${wanted} is needed`, fix };
  return { name, status: "ok", detail: match?.[0] ?? "" };
}

async function checkTool(program: string, args: readonly string[], why: string): Promise<Check> {
  const text = await run([program, ...args], { timeoutMs: commandTimeoutMs }).catch(() => undefined);
  if (text !== undefined) return { name: program, status: "ok", detail: text.split("\n")[0]?.trim() ?? "" };
  return { name: program, status: "fail", detail: `not installed: ${why}`, fix: "run tools/bootstrap.sh, which installs it" };
}

/** Whether every image the set names is there; their content was checked when they were made. */
export async function checkImages(cacheDir: string): Promise<Check> {
  const name = "images";
  const fix = "run `npm run images` in the checkout of Roost";
  const folder = join(cacheDir, "images");
  const text = await readFile(join(folder, imageSetFileName), "utf8").catch(() => undefined);
  if (text === undefined) return { name, status: "fail", detail: `none in ${folder}`, fix };
  let set;
  try {
    set = imageSetSchema.parse(JSON.parse(text));
  } catch {
    return { name, status: "fail", detail: `${join(folder, imageSetFileName)} is of another version`, fix };
  }
  const files = [set.kernel, set.initramfs, set.agentDisk, ...Object.values(set.templates)].map((image) => join(folder, image.path));
  for (const file of files) {
    const isThere = await access(file, constants.R_OK).then(
      () => true,
      () => false,
    );
    if (!isThere) return { name, status: "fail", detail: `${file} is missing`, fix };
  }
  return { name, status: "ok", detail: `kernel ${set.kernel.version}; templates: ${Object.keys(set.templates).join(", ")}` };
}

export async function checkDiskSpace(what: string, folder: string): Promise<Check> {
  const present = await nearestFolder(folder);
  const stats = await statfs(present);
  const free = stats.bavail * stats.bsize;
  const check = { name: `disk of ${what}`, detail: `${formatBytes(free)} free in ${present}` };
  const fix = "make room, or use another folder with ROOST_DIR (state) and ROOST_CACHE_DIR (images)";
  if (free < diskFreeFail) return { ...check, status: "fail", fix };
  return free < diskFreeWarn ? { ...check, status: "warn", fix } : { ...check, status: "ok" };
}

/** The folder itself or the nearest one above that is there. */
async function nearestFolder(folder: string): Promise<string> {
  const isThere = await access(folder).then(
    () => true,
    () => false,
  );
  return isThere || folder === "/" ? folder : nearestFolder(dirname(folder));
}

export async function checkPort({ host, port }: Listen, setting = "ROOST_PORT"): Promise<Check> {
  const name = "port";
  const problem = await tryListen(host, port);
  if (problem === undefined) return { name, status: "ok", detail: port === 0 ? "any free one" : `${host}:${port} is free` };
  if (problem.code === "EADDRINUSE") {
    const owner = await findPortOwner(port);
    const detail = `${port} is taken${owner === undefined ? "" : ` by ${owner}`}`;
    return { name, status: "fail", detail, fix: `choose another: ${flagOf(setting)} ${port + 1} (or ${setting})` };
  }
  return {
    name,
    status: "fail",
    detail: `cannot listen on ${host}:${port}: ${problem.message}`,
    fix: "choose another with --host and --port",
  };
}

function flagOf(setting: string): string {
  return `--${setting.slice("ROOST_".length).toLowerCase().replaceAll("_", "-")}`;
}

async function tryListen(host: string, port: number): Promise<NodeJS.ErrnoException | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", resolve);
    server.listen(port, host, () => server.close(() => resolve(undefined)));
  });
}

/** What is known of hardware virtualization before a platform has started and tried it. */
export async function checkAccelerator(): Promise<Check> {
  const name = "accelerator";
  const hasKvm = await access("/dev/kvm", constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  const detail = hasKvm
    ? "/dev/kvm is there; the first start tries whether it really runs guests"
    : "no usable /dev/kvm: guests run with software emulation (tcg), which is slower";
  return { name, status: "ok", detail };
}

/** Whether the kernel forwards packets between interfaces; the platform turns it on when it starts. */
export async function checkForwarding(): Promise<Check> {
  const name = "ip_forward";
  const value = await readFile("/proc/sys/net/ipv4/ip_forward", "utf8").catch(() => undefined);
  if (value?.trim() === "1") return { name, status: "ok", detail: "on" };
  return { name, status: "warn", detail: value === undefined ? "cannot be read" : "off", fix: "nothing: `roost up` turns it on" };
}
