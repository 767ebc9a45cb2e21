import type { EventKind } from "@roost/contract";

import type { Actor } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import { emit } from "../events/outbox.ts";

/** What becomes of a built template. Hosts tell of templates by names of their own, so those of users are told here. */
export interface TemplateNews {
  readonly kind: EventKind & `template.${string}`;
  readonly actor: Actor;
  /** For people, after the template's name */
  readonly what: string;
  readonly detail?: Readonly<Record<string, string>>;
  readonly time: Date;
}

/** Tells of it, in the transaction in which it happens. */
export async function tellOfTemplate(
  transaction: Db,
  { id, team_id: teamId, name }: { readonly id: string; readonly team_id: string; readonly name: string },
  { kind, actor, what, detail = {}, time }: TemplateNews,
): Promise<void> {
  await emit(transaction, {
    kind,
    teamId,
    subject: { kind: "template", id: name },
    actor,
    message: `template "${name}" ${what}`,
    detail: { template_id: id, ...detail },
    time,
  });
}
