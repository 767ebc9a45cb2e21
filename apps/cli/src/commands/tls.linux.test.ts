import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { run, silentLogger } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { EdgeCertificate } from "@roost/control-plane/testing/edge-certificate";

let dir: string;
let server: Server;
let url: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-trust-"));
  const { pem } = await EdgeCertificate.open({ dir }, silentLogger);
  server = createServer({ cert: pem.certificatePem, key: pem.privateKeyPem }, (_request, response) => response.end("trusted"));
  await once(server.listen(0, "127.0.0.1"), "listening");
  url = `https://localhost:${(server.address() as AddressInfo).port}/`;
});
afterAll(async () => {
  server.close();
  await rm(dir, { recursive: true, force: true });
});

/** Runs a script where what it does to the machine's stores of authorities is seen by nobody else. */
async function inOwnStores(script: string): Promise<string> {
  const mounts = ["/etc/ssl", "/usr/local/share/ca-certificates"].map((folder, index) => {
    const layers = `${dir}/layers-${index}`;
    return `mkdir -p ${layers}/upper ${layers}/work && mount -t overlay overlay -o lowerdir=${folder},upperdir=${layers}/upper,workdir=${layers}/work ${folder}`;
  });
  const main = join(import.meta.dirname, "..", "main.ts");
  const roost = `roost() { node --conditions=@roost/source --import tsx ${main} "$@"; }`;
  const lines = [
    "set -eu",
    `export ROOST_DIR=${dir}`,
    `mount -t tmpfs tmpfs ${dir}/scratch`,
    `cd ${join(import.meta.dirname, "..")}`,
    ...mounts.map((line) => line.replaceAll(`${dir}/layers`, `${dir}/scratch/layers`)),
    roost,
    script,
  ];
  await run(["mkdir", "-p", `${dir}/scratch`]);
  return run(["unshare", "--mount", "bash", "-c", lines.join("\n")], { timeoutMs: 100_000 });
}

test("after `roost tls trust` programs of the machine take the platform's certificate, and after `distrust` no more", async () => {
  const ask = `curl --silent --show-error --max-time 20 --noproxy '*' ${url} 2>&1 || echo " refused"`;
  const output = await inOwnStores(
    [`echo "1: $(${ask})"`, "roost tls trust", `echo "2: $(${ask})"`, "roost tls distrust", `echo "3: $(${ask})"`].join("\n"),
  );
  expect(output).toMatch(/^1: curl: \(60\).*refused/ms);
  expect(output).toMatch(/trusted by programs of this machine: \/usr\/local\/share\/ca-certificates\/roost-[0-9a-f]{12}\.crt/);
  expect(output).toMatch(/^2: trusted$/m);
  expect(output).toMatch(/^3: curl: \(60\).*refused/ms);
});

test("without a local authority it says how to get one", async () => {
  const output = await inOwnStores(`ROOST_DIR=${dir}/nowhere roost tls authority 2>&1 || true`);
  expect(output).toContain("`roost up --tls` makes one");
});
