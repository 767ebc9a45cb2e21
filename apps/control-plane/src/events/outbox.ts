import { randomUUID } from "node:crypto";

import type { EventKind, EventSubjectKind } from "@roost/contract";

import type { Actor } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";

/** Something that the control plane itself did or found out. */
export interface EmittedEvent {
  readonly kind: EventKind;
  /** Whose it is; null: the platform's, only its admins are told */
  readonly teamId: string | null;
  readonly subject: { readonly kind: EventSubjectKind; readonly id: string };
  readonly actor: Actor;
  /** For people; default: made of kind and subject */
  readonly message?: string;
  readonly detail?: Readonly<Record<string, string>>;
  /** Of the sandbox or template that it is about besides its subject, for lists that ask for one */
  readonly sandboxId?: string;
  readonly template?: string;
  readonly time?: Date;
}

/**
 * Tells of a change, in the transaction that makes it: it is told if and only if the change is made. From there on it cannot be lost: a publisher
 * (./event-feed.ts) gives it its place in the stream and a delivery for each channel that wants it.
 */
export async function emit(transaction: Db, event: EmittedEvent): Promise<void> {
  const { kind, subject, actor } = event;
  await transaction
    .insertInto("event")
    .values({
      id: randomUUID(),
      team_id: event.teamId,
      host_id: null,
      time_created: event.time ?? new Date(),
      kind,
      sandbox_id: event.sandboxId ?? (subject.kind === "sandbox" ? subject.id : null),
      template: event.template ?? (subject.kind === "template" ? subject.id : null),
      subject_kind: subject.kind,
      subject_id: subject.id,
      actor: JSON.stringify({ kind: actor.kind, id: actor.id, name: actor.name }),
      message: event.message ?? defaultMessage(event),
      detail: JSON.stringify(event.detail ?? {}),
    })
    .execute();
}

/** `host.cordoned` of `h1` → "host h1: cordoned". */
function defaultMessage({ kind, subject }: EmittedEvent): string {
  const what = kind.slice(kind.indexOf(".") + 1).replaceAll("_", " ");
  return `${subject.kind.replaceAll("_", " ")} ${subject.id}: ${what}`;
}
