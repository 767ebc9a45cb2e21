import { z } from "zod";

/**
 * `GET /logs?after=N&epoch=E&bytes_max=B` of the guest agent: what its processes did since record N of epoch E. For the host alone, with the token.
 *
 * Records are numbered, in order, without gaps but where some were dropped for want of room. The numbers are part of the guest's memory, so a
 * guest that is restored from an earlier state counts from there again. An **epoch** begins at each restore; guest and host remember where
 * the newest began, and by those they share they know which records they have in common, so that none is told twice (`followGuestLog`).
 * Who asks after N has kept what came before: the guest forgets it.
 */
export const guestLogsPath = "/logs";

/** Header of the answer to `GET /metrics`: `EPOCH NUMBER` of the newest record, by which a host knows whether there is anything to ask for. */
export const guestLogMarkHeader = "x-roost-log-mark";

/** Output in one answer in `bytes`, before its encoding; a single record may be as large as a read of a pipe (32 KiB) */
export const guestLogPageBytesMax = 128 * 1024;
/** Records in one answer */
export const guestLogPageRecordsMax = 1024;
/** Epochs remembered: a host asks far more often than there are restores */
export const guestLogEpochsMax = 16;
/** What is told of a command line and of its folder, in characters */
export const guestLogCommandLengthMax = 1024;

const recordSchema = z.object({
  /** Its number */
  n: z.int().min(1),
  /** Unix `ms` by the guest's clock */
  t: z.number(),
  pid: z.int().min(0),
});

export const guestLogRecordSchema = z.discriminatedUnion("k", [
  recordSchema.extend({
    k: z.literal("start"),
    command: z.string().max(guestLogCommandLengthMax),
    cwd: z.string().max(guestLogCommandLengthMax),
    user: z.string().max(256),
    tag: z.string().max(256).optional(),
    /** It has a terminal, whose output is not logged */
    terminal: z.boolean(),
  }),
  recordSchema.extend({
    k: z.enum(["stdout", "stderr"]),
    /** As it was read, wherever that begins and ends; base64 */
    data: z.base64(),
  }),
  recordSchema.extend({
    k: z.literal("end"),
    /** As an `EndEvent` has it: `exit status 7`, `signal: killed` */
    status: z.string().max(256),
    ok: z.boolean(),
    /** Killed because its deadline passed */
    timedOut: z.boolean(),
  }),
]);
export type GuestLogRecord = z.infer<typeof guestLogRecordSchema>;

export const guestLogEpochSchema = z.object({
  id: z.string().max(64),
  /** Number of its first record */
  first: z.int().min(1),
});

export const guestLogPageSchema = z.object({
  /** The newest epochs, the present one last */
  epochs: z.array(guestLogEpochSchema).min(1).max(guestLogEpochsMax),
  /** Records up to this one were asked for already, or are those of another sandbox: that they are not here is no loss */
  after: z.int().min(0),
  /** Number of the newest record there is */
  newest: z.int().min(0),
  records: z.array(guestLogRecordSchema).max(guestLogPageRecordsMax),
});
export type GuestLogPage = z.infer<typeof guestLogPageSchema>;

/** How far a host has followed the log of a guest. */
export const guestLogCursorSchema = guestLogPageSchema.pick({ epochs: true, newest: true });
export type GuestLogCursor = z.infer<typeof guestLogCursorSchema>;

/**
 * What of a page is new to who followed the log as far as `cursor`, and how far that is then. `dropped` counts the records that the guest had no
 * room for before somebody asked.
 *
 * The two have in common what came before the first epoch that only one of them knows. After a rollback that is less than the host saw: its
 * newest records never happened to this guest. (What a guest writes between such a restore and its /init bears numbers of the epoch before, and may
 * be taken for known.)
 */
export function followGuestLog(
  cursor: GuestLogCursor | undefined,
  page: GuestLogPage,
): { readonly cursor: GuestLogCursor; readonly fresh: readonly GuestLogRecord[]; readonly dropped: number } {
  const known = cursor === undefined ? 0 : commonNumber(cursor, page);
  const fresh = page.records.filter(({ n }) => n > known);
  const newest = fresh.at(-1)?.n ?? (page.records.length === 0 ? page.newest : known);
  const dropped = (fresh[0]?.n ?? newest + 1) - 1 - Math.max(known, page.after);
  return { cursor: { epochs: page.epochs, newest }, fresh, dropped: Math.max(0, dropped) };
}

/** Number of the newest record that both know; 0: none. */
function commonNumber(one: GuestLogCursor, other: GuestLogCursor): number {
  const shared = one.epochs.findLast(({ id }) => other.epochs.some((epoch) => epoch.id === id));
  return shared === undefined ? 0 : Math.min(endOf(one, shared.id), endOf(other, shared.id));
}

function endOf({ epochs, newest }: GuestLogCursor, id: string): number {
  const next = epochs[epochs.findIndex((epoch) => epoch.id === id) + 1];
  return next === undefined ? newest : next.first - 1;
}
