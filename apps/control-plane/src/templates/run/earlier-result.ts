import { PlatformError, type ErrorCode } from "@roost/contract";
import type { Template } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { Db } from "../../db/database.ts";
import { callTimeoutMs, type HostLink } from "../../hosts/host-link.ts";
import { patiently, type BuildSandboxes } from "./build-sandbox.ts";

/** How many earlier builds are looked at: more than one, because the newest one's template may be gone */
const candidatesMax = 3;
/** What a host says of a template that cannot be taken over: then it is built */
const isUseless: ReadonlySet<ErrorCode> = new Set(["snapshot_not_found", "template_not_found", "image_damaged"]);

/** Templates on a host that builds made which did the very same, the newest first. */
export async function earlierResults(db: Db, resultKey: string, hostId: string): Promise<string[]> {
  const rows = await db
    .selectFrom("build")
    .select("host_template")
    .where("result_key", "=", resultKey)
    .where("state", "=", "ready")
    .where("host_id", "=", hostId)
    .orderBy("time_ended", "desc")
    .limit(candidatesMax)
    .execute();
  return rows.flatMap((row) => row.host_template ?? []);
}

/** The first of these templates that the build's host still has, under the name of this build's own; undefined when it has none of them. */
export async function takeOver(
  candidates: readonly string[],
  name: string,
  { host, signal, log }: Pick<BuildSandboxes, "signal" | "log"> & { readonly host: HostLink },
): Promise<Template | undefined> {
  for (const from of candidates) {
    try {
      const answer = await patiently(signal, log, () =>
        host.call(() => host.client.copyTemplate({ from, name }, { timeoutMs: callTimeoutMs })),
      );
      host.forgetDescription();
      return answer.template;
    } catch (error) {
      if (!(error instanceof PlatformError) || !isUseless.has(error.code)) throw error;
      log.info({ err: error, from }, "the template of an earlier build cannot be taken over");
    }
  }
  return undefined;
}
