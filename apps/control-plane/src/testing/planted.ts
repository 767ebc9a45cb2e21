import { randomBytes, randomUUID } from "node:crypto";

import { allScopes, defaultTeamId, newId, platformScopes, type pathParameters, type Scope } from "@roost/contract";
import { hour, minute, must, silentLogger } from "@roost/kit";

import { Sessions } from "../accounts/sessions.ts";
import type { Db } from "../db/database.ts";
import { createTestTeam, userCaller } from "./callers.ts";
import { makeReady } from "./ended-build.ts";
import type { World } from "./world.ts";

export type PathParameter = keyof typeof pathParameters;

/** One of everything that a team can have, and who may ask for it. */
export interface Planted {
  readonly teamId: string;
  /** Has every scope that a team's key may have */
  readonly key: string;
  /** Of an owner; the team's others are `ids.user` */
  readonly session: string;
  /** What stands in paths. `name` is of the template; that of the snapshot is `snapshot` */
  readonly ids: Readonly<Record<PathParameter, string>>;
  readonly snapshot: string;
  /** What of these nobody else's answers may hold */
  readonly marks: readonly string[];
}

export const teamScopes: readonly Scope[] = [...allScopes].filter((scope) => !platformScopes.has(scope));

/** Makes one of everything for the first team, or for a new one. The world may not run builds (`buildsAtOnce: 0`). */
export async function plant(world: World, which: "first" | "other"): Promise<Planted> {
  const { db } = world.database;
  const teamId = which === "first" ? defaultTeamId : await createTestTeam(db, `${which}-team`);
  const owner = await userCaller(db, "owner", { teamId });
  const { key, row } = await world.controlPlane.apiKeys.create(owner, { name: `${which}-key`, scopes: teamScopes, expiresInSec: null });
  const ask = async <Answer>(path: string, body: object): Promise<Answer> => {
    const answer = await world.request("POST", path, body, { "x-api-key": key });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${text}`);
    return JSON.parse(text) as Answer;
  };
  const name = `${which}-template`;
  const snapshot = `${which}-snapshot`;
  const sandbox = await ask<{ id: string }>("/v1/sandboxes", { metadata: { of: `${which}-metadata` } });
  const recipe = { from: { template: "base" }, steps: [{ kind: "run", command: "true" }] };
  const build = await ask<{ id: string }>("/v1/builds", { name: `${name}:some-tag`, tags: ["default"], recipe });
  await makeReady(db, world.host);
  await ask("/v1/snapshots", { sandbox_id: sandbox.id, name: snapshot });
  const config = { url: `https://${which}.example.org/hook` };
  const { channel } = await ask<{ channel: { id: string } }>("/v1/channels", { name: `${which}-channel`, kind: "webhook", config });
  const operation = await db.selectFrom("operation").select("id").where("team_id", "=", teamId).executeTakeFirst();
  const user = (await userCaller(db, "member", { teamId })).actor.id;
  const session = await signIn(db, owner.actor.id, teamId);
  const ids = {
    id: sandbox.id,
    port: "3000",
    selector: "some-tag",
    name,
    build: build.id,
    hash: "0".repeat(64),
    tag: "some-tag",
    operation: must(operation, "the operation that made the sandbox").id,
    key: row.id,
    team: teamId,
    user,
    invitation: await plantInvitation(db, teamId, which),
    session: session.id,
    provider: "github",
    host: world.host.id,
    channel: channel.id,
    delivery: await plantDelivery(db, teamId, channel.id),
  };
  const marks = [
    sandbox.id,
    build.id,
    name,
    snapshot,
    channel.id,
    ids.operation,
    ids.delivery,
    ids.invitation,
    user,
    owner.actor.id,
    row.id,
  ];
  return { teamId, key, session: session.token, ids, snapshot, marks: [...marks, session.id, `${which}-metadata`] };
}

/** A session of a user, as a sign-in makes it. */
export async function signIn(db: Db, userId: string, teamId: string): Promise<{ readonly token: string; readonly id: string }> {
  const requester = { requestId: "test", address: null, client: "test" };
  const { token, row } = await new Sessions(db, silentLogger).create(db, userId, teamId, requester);
  return { token, id: row.id };
}

async function plantInvitation(db: Db, teamId: string, which: string): Promise<string> {
  const id = newId("v");
  const times = { time_created: new Date(), time_expires: new Date(Date.now() + hour) };
  const row = {
    id,
    team_id: teamId,
    email: `${which}@example.org`,
    role: "member",
    invited_by: "Test",
    invited_by_id: null,
    token_hash: randomBytes(32),
    ...times,
  };
  await db
    .insertInto("invitation")
    .values({ ...row, role: "member" })
    .execute();
  return id;
}

/** One that is not tried while the test runs. */
async function plantDelivery(db: Db, teamId: string, channelId: string): Promise<string> {
  const id = randomUUID();
  const now = new Date();
  const later = new Date(now.getTime() + 10 * minute);
  const event = {
    id: randomUUID(),
    team_id: teamId,
    host_id: null,
    kind: "sandbox.created",
    sandbox_id: null,
    template: null,
    subject_kind: "sandbox",
    subject_id: "some",
    message: "made by a test",
    time_created: now,
    actor: JSON.stringify({ kind: "system", id: "system", name: "Roost" }),
    detail: "{}",
  } as const;
  await db.insertInto("event").values(event).execute();
  await db
    .insertInto("delivery")
    .values({
      id,
      channel_id: channelId,
      event_id: event.id,
      position: 0,
      subject: "sandbox:some",
      state: "pending",
      time_next: later,
      time_created: now,
      time_expires: later,
    })
    .execute();
  return id;
}
