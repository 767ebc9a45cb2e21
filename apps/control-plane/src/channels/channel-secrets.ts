import { randomBytes } from "node:crypto";

import type { ChannelKind } from "@roost/contract";
import { z } from "zod";
import type { SecretBox } from "@roost/kit";

/** Bytes of a webhook's secret; Standard Webhooks asks for 24 to 64 */
const secretBytes = 32;

const sealedSchema = z.object({
  /** As `channelConfigSchemas` of its kind has it */
  config: z.record(z.string(), z.string()),
  /** What messages to a webhook are signed with; null: it is no webhook */
  secret: z.string().nullable(),
  /** The one before, and until when messages are signed with it, too, in Unix `ms` */
  old: z.object({ secret: z.string(), untilMs: z.number() }).nullable(),
});

/** What the database does not know of a channel. */
export type ChannelSecrets = z.infer<typeof sealedSchema>;

export function sealSecrets(box: SecretBox, channelId: string, secrets: ChannelSecrets): Buffer {
  return box.seal(JSON.stringify(secrets), channelId);
}

/** Throws when it was sealed for another channel, or with another key than this installation's. */
export function openSecrets(box: SecretBox, channelId: string, sealed: Uint8Array): ChannelSecrets {
  return sealedSchema.parse(JSON.parse(box.open(sealed, channelId)));
}

/** `whsec_` and base64, as Standard Webhooks has it; null for channels that sign nothing. */
export function newChannelSecret(kind: ChannelKind): string | null {
  return kind === "webhook" ? `whsec_${randomBytes(secretBytes).toString("base64")}` : null;
}

/** What signs a message now. */
export function signingSecrets({ secret, old }: ChannelSecrets, now: Date): string[] {
  return [...(secret === null ? [] : [secret]), ...(old !== null && old.untilMs > now.getTime() ? [old.secret] : [])];
}
