import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { RoostClient } from "@roost/sdk";

export interface LocalPlatform {
  readonly client: RoostClient;
  readonly url: string;
  readonly apiKey: string;
}

/** The platform that `roost up` started on this machine: its address and key lie in its folder. */
export async function localPlatform(): Promise<LocalPlatform> {
  const folder = process.env["ROOST_DIR"] ?? "/var/lib/roost";
  const { url } = JSON.parse(await readFile(join(folder, "endpoint.json"), "utf8")) as { url: string };
  const apiKey = (await readFile(join(folder, "api-key"), "utf8")).trim();
  return { client: new RoostClient({ url, apiKey }), url, apiKey };
}
