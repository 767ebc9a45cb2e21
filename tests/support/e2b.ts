import { poll } from "@roost/kit";
import { Sandbox, type SandboxOpts } from "e2b";
import { afterAll, afterEach, beforeAll, expect } from "vitest";

import { e2bEnvironment } from "./e2b-environment.ts";
import { TestPlatform, type PlatformSettings } from "./test-platform.ts";

/** Longest that anything in these tests waits for a condition in `ms`. */
export const untilTimeoutMs = 30_000;
/** What a sandbox of these tests is given to live in `ms`: longer than any of them takes on a slow machine. */
export const sandboxTimeoutMs = 600_000;

/**
 * One platform for all tests of a file, and the E2B SDK of this process pointed at it the way a user does it: by three variables of the
 * environment. That sandboxes leave nothing behind is looked at once, at the end, since tests of one file may run at the same time.
 */
export function useE2b(settings: PlatformSettings = {}): () => TestPlatform {
  let platform: TestPlatform | undefined;
  beforeAll(async () => {
    platform = await TestPlatform.start(settings);
    for (const name of Object.keys(process.env)) if (name.startsWith("E2B_")) delete process.env[name];
    Object.assign(process.env, e2bEnvironment(platform));
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === "fail") await platform?.saveEvidence(task.name);
  });
  afterAll(async () => {
    if (platform === undefined) return;
    await using owned = platform;
    for await (const { id } of owned.client.sandboxes.list()) await owned.client.sandboxes.delete(id);
    await until("nothing of ended sandboxes is left", async () => (await owned.leftovers()).length === 0);
  });
  return () => {
    if (platform === undefined) throw new Error("the platform did not start");
    return platform;
  };
}

/** One sandbox for all tests of a file or group that do not change what the others see. */
export function useE2bSandbox(options: SandboxOpts = {}): () => Sandbox {
  let sandbox: Sandbox | undefined;
  beforeAll(async () => {
    sandbox = await Sandbox.create({ timeoutMs: sandboxTimeoutMs, ...options });
  });
  return () => {
    if (sandbox === undefined) throw new Error("the sandbox did not start");
    return sandbox;
  };
}

/** A sandbox for one test, killed at its end. */
export async function ownSandbox(options: SandboxOpts = {}): Promise<Sandbox & AsyncDisposable> {
  return killedAtEnd(await Sandbox.create({ timeoutMs: sandboxTimeoutMs, ...options }));
}

/** Has `await using` kill a sandbox that the test got otherwise. */
export function killedAtEnd(sandbox: Sandbox): Sandbox & AsyncDisposable {
  return Object.assign(sandbox, {
    [Symbol.asyncDispose]: async () => {
      await Sandbox.kill(sandbox.sandboxId);
    },
  });
}

/** Resolves when the condition holds: `true`, or a value that is not undefined and not false. */
export async function until<Value>(
  what: string,
  probe: () => Promise<Value | undefined | false> | Value | undefined | false,
  intervalMs = 100,
): Promise<Value> {
  return poll({ what, timeoutMs: untilTimeoutMs, intervalMs }, async () => {
    const found = await probe();
    return found === false ? undefined : found;
  });
}

/** Output of a command that must succeed, without the line's end. */
export async function output(
  sandbox: Sandbox,
  command: string,
  options: { readonly user?: string; readonly cwd?: string } = {},
): Promise<string> {
  return (await sandbox.commands.run(command, options)).stdout.trimEnd();
}

/** Changes with each boot of a guest's kernel, and only then. */
export const bootId = (sandbox: Sandbox) => output(sandbox, "cat /proc/sys/kernel/random/boot_id");

/** What a promise was rejected with; fails when it was not. */
export async function failureOf(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error, "it should have failed").toBeInstanceOf(Error);
  return error as Error;
}

/** The token that a handle keeps to itself: for requests that are not made by the SDK. */
export function accessTokenOf(sandbox: Sandbox): string {
  const token: unknown = Reflect.get(sandbox, "envdAccessToken");
  if (typeof token !== "string") throw new Error("this SDK keeps the token elsewhere");
  return token;
}

/** A request of the control plane as the SDK makes it, for what the SDK has no method for. */
export async function api(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(new URL(path, process.env["E2B_API_URL"]), {
    method,
    headers: {
      "x-api-key": process.env["E2B_API_KEY"] ?? "",
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    signal: AbortSignal.timeout(untilTimeoutMs),
  });
}

/** A request to a port of a sandbox, routed by headers. */
export async function toPort(sandboxId: string, port: number, path = "/", init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("e2b-sandbox-id", sandboxId);
  headers.set("e2b-sandbox-port", String(port));
  return fetch(new URL(path, process.env["E2B_SANDBOX_URL"]), { ...init, headers, signal: AbortSignal.timeout(untilTimeoutMs) });
}
