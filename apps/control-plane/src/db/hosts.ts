import type { Db } from "./database.ts";
import type { HostInfo, TemplateTable } from "./schema.ts";

/** Records what a host said of itself and which templates it has, as a whole. */
export async function recordHost(
  db: Db,
  host: { readonly id: string; readonly info: HostInfo; readonly templates: readonly Omit<TemplateTable, "host_id">[] },
  now: Date,
): Promise<void> {
  const info = JSON.stringify(host.info);
  await db.transaction().execute(async (transaction) => {
    await transaction
      .insertInto("host")
      .values({ id: host.id, info, time_created: now, time_last_seen: now })
      .onConflict((conflict) => conflict.column("id").doUpdateSet({ info, time_last_seen: now }))
      .execute();
    await transaction.deleteFrom("template").where("host_id", "=", host.id).execute();
    if (host.templates.length > 0) {
      await transaction
        .insertInto("template")
        .values(host.templates.map((template) => ({ host_id: host.id, ...columnsOf(template) })))
        .execute();
    }
  });
}

/** A host says more of a template than is recorded. */
function columnsOf(template: Omit<TemplateTable, "host_id">): Omit<TemplateTable, "host_id"> {
  const { name, kind, digest, disk_size_mib, has_memory, vcpus, memory_mib } = template;
  return { name, kind, digest, disk_size_mib, has_memory, vcpus, memory_mib };
}

/** Templates of all hosts ever seen, by name; of several builds of one name the first by digest. */
export async function listTemplates(db: Db): Promise<Omit<TemplateTable, "host_id">[]> {
  return db
    .selectFrom("template")
    .select(["name", "kind", "digest", "disk_size_mib", "has_memory", "vcpus", "memory_mib"])
    .distinctOn("name")
    .orderBy("name")
    .orderBy("digest")
    .execute();
}
