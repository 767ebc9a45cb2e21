import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { must, poll } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { headerValues, nameServerScript, securedRequests, securedServerScript, SeededRandom, TestAuthority } from "@roost/testing";
import { afterAll, beforeAll, expect, test } from "vitest";

import { filesWith, formsOf, memoryWith } from "../support/find-bytes.ts";
import { findVmm } from "../support/find-vmm.ts";
import { outside, outsideNamespace, useOutsideHosts } from "../support/outside-hosts.ts";
import { usePlatform } from "../support/platform.ts";

/** Steps of a sandbox's life after each of which the canary is looked for; the soak makes 100. */
const stepCount = Number(process.env["SECRET_STEPS"] ?? 7);
const seed = Number(process.env["SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

const api = "api.roost.example";
const canary = `canary${randomBytes(24).toString("hex")}`;
const patterns = formsOf(canary);
/** In the guest's memory and on its disk: what is looked for is found where it is. */
const marker = `marker${randomBytes(24).toString("hex")}`;
const rules = { [api]: { headers: { Authorization: `Bearer ${canary}` } } };

const authority = await TestAuthority.create();
const folder = await mkdtemp(join(tmpdir(), "roost-secrets-"));
const caPath = join(folder, "ca.pem");
await writeFile(caPath, authority.caPem);

useOutsideHosts();
const programs: ChildProcess[] = [];
let output = "";

beforeAll(async () => {
  const identity = await authority.serverIdentity([api]);
  const scripts = [
    securedServerScript(identity, { address: outside.address, port: 443 }),
    nameServerScript(outside.address, { [api]: outside.address }),
  ];
  for (const script of scripts) {
    const child = spawn("ip", ["netns", "exec", outsideNamespace, process.execPath, "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    programs.push(child);
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  await poll({ what: "the servers", timeoutMs: 30_000 }, () => (output.split("ready").length > 2 ? true : undefined));
});
afterAll(async () => {
  for (const child of programs) child.kill("SIGKILL");
  await rm(folder, { recursive: true });
});

const platform = usePlatform({ ROOST_EGRESS_CA: caPath, ROOST_GUEST_DNS_SERVERS: outside.address });

let asked = 0;

/** Asks the server as the guest's own programs do; answers what it got as `Authorization`. */
async function ask(sandbox: SandboxHandle, ...more: readonly string[]): Promise<readonly string[]> {
  const path = `/request-${(asked += 1)}`;
  const args = ["-sS", "-m", "40", "-H", "Authorization: Bearer placeholder", ...more, `https://${api}${path}`];
  const { stdout, stderr, exit_code: exitCode } = await sandbox.exec("curl", { args, timeout_sec: 60 });
  expect({ stdout, stderr, exitCode }).toEqual({ stdout: "ok\n", stderr: "", exitCode: 0 });
  const request = await poll({ what: "the request at its server", timeoutMs: 30_000 }, () =>
    securedRequests(output).find(({ url }) => url === path),
  );
  return headerValues(request, "authorization");
}

const isSet = [`Bearer ${canary}`];

const clean = new Set<string>();

/** Everywhere that a guest's state goes, and everything else that the platform keeps: images, disks, logs, records, its database; and the memory of each VMM. */
async function findCanary(): Promise<string[]> {
  const found = await filesWith(platform().folder, patterns, clean);
  for await (const { id } of platform().client.sandboxes.list()) {
    const pid = await findVmm(platform().folder, id);
    if (pid !== undefined) found.push(...(await memoryWith(pid, patterns)));
  }
  if (patterns.some((pattern) => Buffer.from(platform().output).includes(pattern))) found.push("what the platform printed");
  return found;
}

type Step = (sandbox: SandboxHandle) => Promise<void>;
const steps: Readonly<Record<string, Step>> = {
  "pause and resume": async (sandbox) => {
    await sandbox.pause();
    expect(await findCanary(), "while it is paused").toEqual([]);
    await sandbox.resume();
  },
  checkpoint: async (sandbox) => void (await sandbox.checkpoint()),
  rollback: async (sandbox) => {
    const { generation } = await sandbox.checkpoint();
    await sandbox.rollback(generation.number);
  },
  fork: async (sandbox) => {
    const [forked] = await sandbox.fork(1);
    if (forked === undefined || "error" in forked) throw new Error("no child");
    const child = platform().client.sandbox(forked.sandbox.id);
    expect(await ask(child)).toEqual(isSet);
    expect(await findCanary(), "with a child").toEqual([]);
    await child.delete();
  },
  "another host agent": async () => {
    await platform().killHard();
    await platform().up();
  },
  "a boot of its disk": async (sandbox) => {
    await sandbox.pause({ memory: false });
    await sandbox.resume({ memory: false });
  },
  "another value, and back": async (sandbox) => {
    const other = `Bearer other${randomBytes(8).toString("hex")}`;
    await sandbox.setNetwork({ rules: { [api]: { headers: { authorization: other } } } });
    expect(await ask(sandbox)).toEqual([other]);
    await sandbox.setNetwork({ rules });
  },
};

test(
  `a secret is set on each request and is nowhere in the guest, over ${stepCount} steps (SEED=${seed})`,
  async () => {
    const random = new SeededRandom(seed);
    const first = await platform().sandbox({ timeout_sec: 0, network: { rules } });
    const { id } = first;
    expect(await ask(first), "from the first command on").toEqual(isSet);
    await first.exec("sh", { args: ["-c", `echo ${marker} >/root/marker; sync`], user: "root" });
    await first.execBackground("sleep", { args: ["100000"], envs: { MARKER: marker } });

    const names = Object.keys(steps);
    for (let step = 0; step < stepCount; step += 1) {
      const sandbox = platform().client.sandbox(id); // at the address that the platform has now
      const name = must(step < names.length ? names[step] : names[random.integer(names.length)], "a step");
      await must(steps[name], "a step")(sandbox);
      expect(await ask(platform().client.sandbox(id)), `after ${name}`).toEqual(isSet);
      expect(await findCanary(), `after ${name}`).toEqual([]);
    }

    await platform()
      .client.sandbox(id)
      .exec("cat", { args: ["/root/marker"], user: "root" }); // its memory may have been another's meanwhile
    const pid = must(await findVmm(platform().folder, id), "its VMM");
    expect(await memoryWith(pid, formsOf(marker)), "the search finds what is in a guest's memory").not.toEqual([]);
    const last = platform().client.sandbox(id);
    await last.pause();
    const files = await filesWith(join(platform().folder, "sandboxes", id), formsOf(marker));
    expect(files.length, "and what is saved").toBeGreaterThan(0);
    await last.delete();
  },
  120_000 + stepCount * 60_000,
);

test("what is made of a sandbox has neither its rules nor its authority", async () => {
  const sandbox = await platform().sandbox({ timeout_sec: 0, network: { rules } });
  expect(await ask(sandbox)).toEqual(isSet);
  const variables = await sandbox.exec("sh", { args: ["-c", "echo $NODE_EXTRA_CA_CERTS $SSL_CERT_FILE $REQUESTS_CA_BUNDLE"] });
  expect(variables.stdout).toBe("/etc/ssl/roost-sandbox.pem /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n");
  const python = `import urllib.request; print(urllib.request.urlopen("https://${api}/python").read().decode(), end="")`;
  expect((await sandbox.exec("python3", { args: ["-c", python], timeout_sec: 60 })).stdout).toBe("ok\n");

  const { name } = await platform().client.snapshots.create(sandbox.id, "made-of-it");
  const made = await platform().sandbox({ template: name, timeout_sec: 0 });
  expect(await ask(made, "-k"), "what the guest itself says").toEqual(["Bearer placeholder"]);
  expect((await made.exec("cat", { args: ["/etc/ssl/roost-sandbox.pem"] })).exit_code).not.toBe(0);
  const inList = await made.exec("grep", { args: ["-c", "authority of this sandbox", "/etc/ssl/certs/ca-certificates.crt"] });
  expect(inList.stdout).toBe("0\n");
  // And rules that come and go while it runs
  await made.setNetwork({ rules });
  expect(await ask(made)).toEqual(isSet);
  await made.setNetwork({});
  expect(await ask(made, "-k")).toEqual(["Bearer placeholder"]);
  expect(await findCanary()).toEqual([]);
  await made.delete();
  await sandbox.delete();
}, 300_000);
