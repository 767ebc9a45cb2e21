import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { TemplateSchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { Db } from "../db/database.ts";
import { claimBuild, finishBuild, type BuildEnd, type BuildRow } from "../templates/build-store.ts";
import { hostTemplateOf } from "../templates/names.ts";
import type { FakeHost } from "./fake-host.ts";

/** Takes on the oldest build that waits, as whoever runs builds does. */
export async function claimOne(db: Db): Promise<BuildRow> {
  const now = new Date();
  const row = await claimBuild(db, { claimedBy: "a test", now, claimEnds: new Date(now.getTime() + 60_000) });
  if (row === undefined) throw new Error("no build waits");
  return row;
}

/** The same, and ends it as ready: its host has a template of it then. */
export async function makeReady(db: Db, host: FakeHost, more: MessageInitShape<typeof TemplateSchema> = {}): Promise<BuildRow> {
  const row = await claimOne(db);
  const name = hostTemplateOf(row.id);
  host.images.templates.set(
    name,
    create(TemplateSchema, {
      name,
      kind: "build",
      digest: `sha256:${"2".repeat(64)}`,
      diskSizeMib: 3072,
      hasMemory: true,
      vcpus: row.vcpus,
      memoryMib: row.memory_mib,
      timeCreatedMs: BigInt(Date.now()),
      ...more,
    }),
  );
  return end(db, row, { state: "ready", hostTemplate: name, sizeBytes: 12_345, resultKey: "same" });
}

/** Ends a build that was claimed. */
export async function end(db: Db, row: BuildRow, how: BuildEnd): Promise<BuildRow> {
  const ended = await finishBuild(db, row, how, new Date());
  if (ended === undefined) throw new Error("the build is somebody else's");
  return ended;
}
