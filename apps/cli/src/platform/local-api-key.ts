import { readFile } from "node:fs/promises";

import type { ApiKeys } from "@roost/control-plane";

import { apiKeyPath } from "../settings.ts";
import { writeApiKey } from "./endpoint.ts";

/** The first start makes the key that commands on this machine use; later ones make it again only when it is no good. */
export async function ensureApiKey(dir: string, apiKeys: ApiKeys): Promise<void> {
  const present = await readFile(apiKeyPath(dir), "utf8").catch(() => undefined);
  const isGood =
    present !== undefined &&
    (await apiKeys.check(present.trim()).then(
      () => true,
      () => false,
    ));
  if (!isGood) await writeApiKey(dir, (await apiKeys.createForPlatform("this machine")).key);
}
