import type { Db } from "../../db/database.ts";
import type { SandboxRow } from "../../db/sandboxes.ts";

/** How many earlier builds of a template say where its cache may be */
const earlierBuildsMax = 5;

/** Sandboxes that work for a build, of those that nobody has asked to end. */
export async function hiddenSandboxes(db: Db, buildId: string): Promise<Pick<SandboxRow, "id">[]> {
  return db
    .selectFrom("sandbox")
    .select("id")
    .where("for_build_id", "=", buildId)
    .where("state", "<>", "stopped")
    .where("time_delete_requested", "is", null)
    .execute();
}

/** The same for builds that nobody works at: they have ended, or are gone, or their claim ended before `now`. */
export async function abandonedSandboxes(db: Db, now: Date): Promise<Pick<SandboxRow, "id" | "for_build_id">[]> {
  return db
    .selectFrom("sandbox")
    .leftJoin("build", "build.id", "sandbox.for_build_id")
    .select(["sandbox.id", "sandbox.for_build_id"])
    .where("sandbox.for_build_id", "is not", null)
    .where("sandbox.state", "<>", "stopped")
    .where("sandbox.time_delete_requested", "is", null)
    .where((row) => row.or([row("build.id", "is", null), row("build.state", "<>", "building"), row("build.time_claim_ends", "<=", now)]))
    .execute();
}

/** Hosts that worked at builds of a template, the newest first. */
export async function hostsThatBuilt(db: Db, templateId: string): Promise<(string | null)[]> {
  const rows = await db
    .selectFrom("build")
    .select("host_id")
    .where("template_id", "=", templateId)
    .where("host_id", "is not", null)
    .orderBy("time_created", "desc")
    .limit(earlierBuildsMax)
    .execute();
  return rows.map((row) => row.host_id);
}
