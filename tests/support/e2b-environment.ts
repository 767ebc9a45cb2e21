import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { TestPlatform } from "./test-platform.ts";

export interface E2bEnvironment {
  readonly E2B_API_KEY: string;
  readonly E2B_API_URL: string;
  readonly E2B_SANDBOX_URL: string;
}

/** What `roost e2b-env` prints: all that E2B's tools are told about the platform. */
export function e2bEnvironment(platform: TestPlatform): E2bEnvironment {
  const key = readFileSync(join(platform.folder, "api-key"), "utf8").trim();
  return { E2B_API_KEY: key.replace("roost_", "e2b_"), E2B_API_URL: platform.client.url, E2B_SANDBOX_URL: platform.client.url };
}
