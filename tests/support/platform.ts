import type { SandboxHandle } from "@roost/sdk";
import { afterAll, afterEach, beforeAll, expect } from "vitest";

import { TestPlatform, type PlatformSettings } from "./test-platform.ts";

/** One platform for all tests of a file. */
export function usePlatform(settings: PlatformSettings = {}): () => TestPlatform {
  let platform: TestPlatform | undefined;
  beforeAll(async () => {
    platform = await TestPlatform.start(settings);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === "fail") await platform?.saveEvidence(task.name);
    expect(await platform?.leftovers(), "left behind by sandboxes that have ended").toEqual([]);
  });
  afterAll(async () => {
    await platform?.[Symbol.asyncDispose]();
  });
  return () => {
    if (platform === undefined) throw new Error("the platform did not start");
    return platform;
  };
}

/** One sandbox for all tests of a file that do not change what the others see. */
export function useSandbox(platform: () => TestPlatform, input: Parameters<TestPlatform["sandbox"]>[0] = {}): () => SandboxHandle {
  let sandbox: SandboxHandle | undefined;
  beforeAll(async () => {
    sandbox = await platform().sandbox(input);
  });
  return () => {
    if (sandbox === undefined) throw new Error("the sandbox did not start");
    return sandbox;
  };
}
