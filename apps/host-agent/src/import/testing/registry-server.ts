import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";

import { poll, run } from "@roost/kit";

export interface RegistryServer {
  /** `127.0.0.1:<port>` */
  readonly host: string;
  /** Where its blobs are, to damage them */
  readonly dataFolder: string;
  readonly close: () => Promise<void>;
}

/** Debian's docker-registry on a port of its own; with a password file it wants credentials. */
export async function startRegistry(folder: string, htpasswd?: string): Promise<RegistryServer> {
  await mkdir(folder, { recursive: true });
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  const dataFolder = join(folder, "data");
  const auth = htpasswd === undefined ? [] : ["auth:", "  htpasswd:", "    realm: test", `    path: ${join(folder, "htpasswd")}`];
  if (htpasswd !== undefined) await writeFile(join(folder, "htpasswd"), htpasswd);
  const config = [
    "version: 0.1",
    "storage:",
    "  filesystem:",
    `    rootdirectory: ${dataFolder}`,
    "http:",
    `  addr: ${host}`,
    ...auth,
    "",
  ].join("\n");
  await writeFile(join(folder, "config.yml"), config);
  const child = spawn("docker-registry", ["serve", join(folder, "config.yml")], { stdio: "ignore" });
  child.on("error", () => undefined); // the poll below says that nothing answers
  await poll({ what: "the registry's first answer", timeoutMs: 30_000, intervalMs: 100 }, async () => {
    const { status } = await fetch(`http://${host}/v2/`);
    return status === 200 || status === 401 ? true : undefined;
  });
  return {
    host,
    dataFolder,
    close: async () => {
      if (child.exitCode !== null || !child.kill("SIGKILL")) return;
      await once(child, "exit");
    },
  };
}

/** Pushes an OCI layout. */
export async function push(layout: string, reference: string, credentials?: string): Promise<void> {
  const creds = credentials === undefined ? [] : ["--dest-creds", credentials];
  await run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", ...creds, `oci:${layout}:image`, `docker://${reference}`], {
    timeoutMs: 60_000,
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}
