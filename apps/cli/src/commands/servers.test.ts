import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { poll } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { askHealthSocket, HealthSocket, healthSocketPath } from "../platform/health-socket.ts";
import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
});
afterEach(() => cli[Symbol.asyncDispose]());

/** Without what the client half of the test's environment has: a server has no use for it. */
const server = { ROOST_URL: "", ROOST_API_KEY: "" };

describe("roost control-plane", () => {
  test("wants a database server, and says what does not", async () => {
    const { exitCode, stderr } = await cli.run(["control-plane"], { environment: server });
    expect(exitCode).toBe(2);
    expect(stderr).toContain("ROOST_DATABASE_URL is required");
    expect(stderr).toContain("`roost up` needs no database server");
  });

  test("an address that is taken is told with the setting to change", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    const environment = { ...server, ROOST_DATABASE_URL: "postgres://nobody@127.0.0.1:1/none", ROOST_PORT: "0" };
    const hostPort = { ...environment, ROOST_HOSTS_ADDRESS: "127.0.0.1", ROOST_HOSTS_PORT: String(port) };
    const { exitCode, stderr } = await cli.run(["control-plane"], { environment: hostPort });
    taken.close();
    expect(exitCode).toBe(1);
    expect(stderr).toContain(`--hosts-port ${port + 1} (or ROOST_HOSTS_PORT)`);
  });

  test("settings of a host agent are not its own", async () => {
    const { exitCode, stderr } = await cli.run(["control-plane"], { environment: { ...server, ROOST_POOL_SIZES: "base=1" } });
    expect(exitCode).toBe(2);
    expect(stderr).toContain("ROOST_POOL_SIZES is not a setting");
  });
});

describe("roost host-agent", () => {
  test("an address or URL that is none is refused before anything is done", async () => {
    for (const [flag, value, told] of [
      ["--address", "10.0.0.7", "ROOST_ADDRESS"],
      ["--address", "10.0.0.7:0", "ROOST_ADDRESS"],
      ["--listen", "nowhere", "ROOST_LISTEN"],
      ["--control-plane", "http://roost.example.org:7071", "ROOST_CONTROL_PLANE"],
      ["--control-plane", "https://roost.example.org:7071/path", "ROOST_CONTROL_PLANE"],
    ] as const) {
      const { exitCode, stderr } = await cli.run(["host-agent", flag, value], { environment: server });
      expect(exitCode, `${flag} ${value}`).toBe(2);
      expect(stderr).toContain(`${told}=`);
    }
  });

  test("settings of a control plane are not its own", async () => {
    const { exitCode, stderr } = await cli.run(["host-agent"], { environment: { ...server, ROOST_DATABASE_URL: "postgres://x" } });
    expect(exitCode).toBe(2);
    expect(stderr).toContain("ROOST_DATABASE_URL is not a setting");
    expect(stderr).not.toContain("postgres://x");
  });
});

test("status shows the host agent of the folder, and whether it is healthy", async () => {
  const health = {
    healthy: true,
    hostId: "h0123456789abcdefghij",
    address: "10.0.0.7:7072",
    controlPlane: "https://roost.example.org:7071",
    wanted: "ready",
    timeHeardMs: Date.now(),
    clockOffsetMs: 7_000,
    certificateEndsMs: 1_800_000_000_000,
    ended: null as string | null,
  };
  const environment = { ROOST_URL: "", ROOST_API_KEY: "" };
  const socket = await HealthSocket.open(cli.folder, () => health);
  try {
    const healthy = await cli.run(["status"], { environment });
    expect(healthy.exitCode).toBe(0);
    for (const part of ["healthy", health.hostId, health.controlPlane, "7000 ms ahead"]) expect(healthy.stdout.toString()).toContain(part);
    Object.assign(health, { healthy: false, ended: "this host was deleted" });
    const deleted = await cli.run(["status", "--json"], { environment });
    expect(deleted.exitCode).toBe(1);
    expect(JSON.parse(deleted.stdout.toString())).toMatchObject({ healthy: false, host_agent: { ended: "this host was deleted" } });
  } finally {
    await socket.close();
  }
});

describe("the health socket", () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "roost-health-"));
  });
  afterEach(() => rm(dir, { recursive: true }));

  test("says what it is asked to say, and takes the place of one that a killed process left", async () => {
    await writeFile(healthSocketPath(dir), "");
    let healthy = true;
    const socket = await HealthSocket.open(dir, () => ({ healthy }));
    expect(await askHealthSocket(dir)).toEqual({ healthy: true });
    healthy = false;
    expect(await askHealthSocket(dir)).toEqual({ healthy: false });
    await socket.close();
    await poll({ what: "no answer", timeoutMs: 5_000 }, async () => ((await askHealthSocket(dir)) === undefined ? true : undefined));
  });

  test("a folder that is too deep for a socket is told so", async () => {
    await expect(HealthSocket.open(`/${"x".repeat(100)}`, () => ({ healthy: true }))).rejects.toThrow("ROOST_DIR=/x");
  });
});
