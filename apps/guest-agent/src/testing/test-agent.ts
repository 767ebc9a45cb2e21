import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, type CallOptions, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import { silentLogger } from "@roost/kit";

import { createGuestAgent } from "../guest-agent.ts";
import type { GuestMachine, MachineChange } from "../init/guest-machine.ts";
import { guestAgentOptions } from "../options.ts";

const here = import.meta.dirname;

/** Accounts of the tests' guests: ids need not exist on the machine that runs the tests. */
export const passwdText = [
  "root:x:0:0:root:/root:/bin/bash",
  "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin",
  "user:x:1000:1000::/tmp:/bin/sh",
  "homeless:x:1001:1001::/nowhere/at/all:/bin/sh",
  "",
].join("\n");
export const groupText = [
  "root:x:0:",
  "user:x:1000:",
  "docker:x:2001:user,daemon",
  "video:x:2002:daemon,user",
  "other:x:2003:daemon",
  "",
].join("\n");

/** Builds `native/launcher.c` when it changed and answers the path of the program. */
export function builtLauncher(): string {
  const folder = join(here, "../..");
  execFileSync(process.execPath, [join(folder, "build.mjs"), "--launcher"], { stdio: "pipe" });
  return join(folder, "dist/native/launcher");
}

type MachineCall = MachineChange | { readonly trusted: string } | "sync" | "forget";

/** What `/init` and `/prepare` would have done to the machine. */
export class RecordedMachine implements GuestMachine {
  readonly calls: MachineCall[] = [];
  failure: Error | undefined;
  readonly trustedAuthority = {
    isInstalled: false,
    install: (certificatePem: string) => {
      this.#record({ trusted: certificatePem });
      this.trustedAuthority.isInstalled = certificatePem !== "";
      return certificatePem === "" ? undefined : { own: "/own.pem", bundle: "/bundle.pem" };
    },
  };

  async become(change: MachineChange): Promise<void> {
    this.#record(change);
  }
  async sync(): Promise<void> {
    this.#record("sync");
  }
  async forget(): Promise<void> {
    this.#record("forget");
  }

  #record(call: MachineCall): void {
    if (this.failure !== undefined) throw this.failure;
    this.calls.push(call);
  }
}

export interface TestAgent extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly folder: string;
  readonly machine: RecordedMachine;
  readonly processes: Client<typeof Process>;
  readonly failures: Error[];
  /** A fresh agent on the same state, as the supervisor would start it. */
  restart(): Promise<TestAgent>;
}

/** An agent in this process, with accounts and state of its own. */
export async function startTestAgent(settings: Readonly<Record<string, string>> = {}, folderGiven?: string): Promise<TestAgent> {
  const folder = folderGiven ?? mkdtempSync(join(tmpdir(), "roost-guest-"));
  mkdirSync(join(folder, "etc"), { recursive: true });
  writeFileSync(join(folder, "etc/passwd"), passwdText);
  writeFileSync(join(folder, "etc/group"), groupText);
  const machine = new RecordedMachine();
  const failures: Error[] = [];
  const options = guestAgentOptions.read(
    {},
    {
      host: "127.0.0.1",
      port: "0",
      stateFolder: join(folder, "state"),
      etcFolder: join(folder, "etc"),
      agentDiskFolder: join(folder, "agent-disk"),
      outerAddress: "127.0.0.2",
      scanIntervalMs: "0",
      ...settings,
    },
  );
  const agent = createGuestAgent(options, {
    launcher: builtLauncher(),
    log: silentLogger,
    machine,
    onFailure: (error) => failures.push(error),
  });
  const port = await agent.listen();
  const url = `http://127.0.0.1:${port}`;
  const close = async () => agent.close();
  return {
    url,
    port,
    folder,
    machine,
    failures,
    processes: createClient(Process, createConnectTransport({ baseUrl: url, httpVersion: "1.1", useBinaryFormat: true })),
    async restart() {
      await close();
      return startTestAgent(settings, folder);
    },
    async [Symbol.asyncDispose]() {
      await close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Call options that act as a user of the guest. */
export function as(user: string, more: CallOptions = {}): CallOptions {
  return { ...more, headers: { authorization: `Basic ${Buffer.from(`${user}:`).toString("base64")}` } };
}
