import type { EventKind } from "@roost/contract";

import { systemCaller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import { emit } from "../events/outbox.ts";
import type { BuildRow } from "./build-store.ts";

/** Of why a build failed, in characters: its log has the rest */
const reasonLengthMax = 500;

/** Tells what became of a build, in the transaction in which it does. */
export async function tellOfBuild(transaction: Db, row: BuildRow, kind: EventKind & `build.${string}`, time: Date): Promise<void> {
  const template = await transaction.selectFrom("built_template").select("name").where("id", "=", row.template_id).executeTakeFirst();
  const name = template?.name ?? row.template_id;
  const reason = row.failure?.message.slice(0, reasonLengthMax);
  const what = `${kind.slice("build.".length)}${reason === undefined ? "" : `: ${reason}`}`;
  await emit(transaction, {
    kind,
    teamId: row.team_id,
    subject: { kind: "build", id: row.id },
    actor: systemCaller(row.team_id).actor,
    message: `build of template "${name}": ${what}`,
    detail: { template_id: row.template_id, tags: row.tags.join(","), ...(row.failure?.step ? { step: row.failure.step } : {}) },
    template: name,
    time,
  });
}
