import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { verifyChain } from "../audit/verify-chain.ts";
import type { Db } from "../db/database.ts";
import { listUnsettled } from "../db/reservations.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { firstTeam } from "../testing/first-team.ts";
import type { Phase } from "./host-history.ts";
import { contentOf, type Simulation } from "./simulation.ts";

type Records = ReadonlyMap<string, SandboxRow>;

/** What is not as it should be once everything has become quiet. */
export async function violations(db: Db, simulation: Simulation): Promise<string[]> {
  const records = new Map((await db.selectFrom("sandbox").selectAll().execute()).map((row) => [row.id, row]));
  return [
    ...ofHosts(simulation, records),
    ...ofClients(simulation, records),
    ...(await ofWork(db)),
    ...(await ofEvents(db, simulation, records)),
    ...(await ofAudit(db, simulation)),
    ...(await ofUsage(db, simulation, records)),
  ];
}

/** No sandbox is twice, none is lost, none is there that nobody knows of. */
function ofHosts(simulation: Simulation, records: Records): string[] {
  const found: string[] = [];
  const places = new Map<string, string>();
  for (const host of simulation.hosts) {
    for (const [id, sandbox] of host.sandboxes) {
      const state = SandboxState[sandbox.state].toLowerCase();
      const record = records.get(id);
      const content = host.moves.contents.get(id);
      if (content !== contentOf(id)) found.push(`${id} on ${host.id} holds '${content}'`);
      if (sandbox.transit !== undefined) found.push(`${id} on ${host.id} is held by a move`);
      if (places.has(id)) found.push(`${id} is twice: on ${places.get(id)} and ${host.id}`);
      places.set(id, host.id);
      if (record === undefined) found.push(`${id} on ${host.id} has no record`);
      else if (record.host_id !== host.id) found.push(`${id} is on ${host.id}, its record says ${record.host_id}`);
      else if (record.state !== state) found.push(`${id} is ${state} on ${host.id}, its record says ${record.state}`);
      else if (record.generation !== Number(sandbox.generation))
        found.push(`the record of ${id} is ${record.generation}, not ${sandbox.generation}`);
    }
  }
  for (const { id, state, time_lost: lost } of records.values()) {
    if (state !== "stopped" && state !== "failed" && !places.has(id)) found.push(`${id} is ${state}, and on no host`);
    if (lost !== null) found.push(`${id} is lost`);
  }
  return found;
}

/** What clients were told is so. Whatever is there, a client knows of: what was made for a request that was answered is in the answer. */
function ofClients({ expectations, unanswered, onItsWay }: Simulation, records: Records): string[] {
  const found = [...expectations.broken];
  for (const [id, { state, generation, expires }] of expectations.known) {
    const actual = records.get(id);
    if (state === "gone" ? actual !== undefined && actual.state !== "stopped" : state !== "any" && actual?.state !== state)
      found.push(`clients were told that ${id} is ${state}; it is ${actual?.state ?? "not there"}`);
    else if (state !== "gone" && generation !== undefined && actual?.current_generation !== generation)
      found.push(`clients were told that ${id} is at generation ${generation}; it is at ${actual?.current_generation}`);
    if (expires && actual?.state === "running") found.push(`the time of ${id} is up; it runs`);
  }
  for (const { id, state } of records.values()) {
    if (state !== "stopped" && state !== "failed" && !expectations.known.has(id))
      found.push(`${id} is ${state}, and no client was told of it`);
  }
  for (const intent of unanswered) found.push(`never answered: ${JSON.stringify(intent)}`);
  for (const what of onItsWay) found.push(`still on its way: ${what}`);
  return found;
}

/** No operation runs for ever, and no reservation leaks: counted anew from the records they are what they are. */
async function ofWork(db: Db): Promise<string[]> {
  const unsettled = await listUnsettled(db);
  const held = await db.selectFrom("reservation").select("sandbox_id").where("held_by", "is not", null).execute();
  const orphaned = await db
    .selectFrom("reservation")
    .select("sandbox_id")
    .where("sandbox_id", "not in", db.selectFrom("sandbox").select("id"))
    .execute();
  const moves = await db.selectFrom("sandbox_move").select(["sandbox_id", "step"]).execute();
  const running = await db.selectFrom("operation").select(["id", "kind"]).where("state", "=", "running").execute();
  return [
    ...unsettled.map((id) => `the reservation of ${id} is not what its record says`),
    ...held.map(({ sandbox_id: id }) => `the reservation of ${id} is held by nobody who works`),
    ...orphaned.map(({ sandbox_id: id }) => `there is a reservation of ${id}, and no record`),
    ...moves.map(({ sandbox_id: id, step }) => `a move of ${id} is ${step} for ever`),
    ...running.map(({ id, kind }) => `operation ${id} (${kind}) runs for ever`),
  ];
}

/** Of each sandbox with a record every event was told, once, in the order in which it happened. */
async function ofEvents(db: Db, simulation: Simulation, records: Records): Promise<string[]> {
  const told = await db.selectFrom("event").select(["id", "sandbox_id", "position"]).orderBy("position").execute();
  const found = told.filter(({ position }) => position === null).map(({ id }) => `event ${id} was never published`);
  for (const [hostId, history] of simulation.histories) {
    for (const id of new Set(history.events.map(({ sandboxId }) => sandboxId))) {
      const record = records.get(id ?? "");
      if (record === undefined) continue;
      const happened = history.eventsOf(record.id, { isOwn: record.host_id === hostId }).map((event) => event.id);
      const published = told.filter((event) => event.sandbox_id === id && happened.includes(event.id)).map((event) => event.id);
      if (happened.join() !== published.join()) found.push(`of ${id} happened ${happened.join()}; told was ${published.join()}`);
    }
  }
  return found;
}

/** The chain is whole, and has every request that was answered. */
async function ofAudit(db: Db, simulation: Simulation): Promise<string[]> {
  const { is_intact: isIntact, is_complete: isComplete, problem } = await verifyChain(db, firstTeam, { after: 0, entriesMax: 100_000 });
  const found = isIntact && isComplete ? [] : [`the audit log is broken: ${problem ?? "it has not ended"}`];
  const entries = await db.selectFrom("audit_entry").select("resource_id").execute();
  const kept = new Set(entries.map((entry) => entry.resource_id));
  for (const key of simulation.expectations.answers.keys()) if (!kept.has(key)) found.push(`the answer to ${key} is not in the audit log`);
  return found;
}

/** Intervals of use are what hosts did, from what was heard first until the record ended. */
async function ofUsage(db: Db, simulation: Simulation, records: Records): Promise<string[]> {
  const intervals = await db.selectFrom("sandbox_interval").selectAll().orderBy("time_started").execute();
  const found: string[] = [];
  for (const { id, host_id: hostId, state, time_stopped: stopped } of records.values()) {
    const happened = simulation.histories.get(hostId)?.phases.get(id) ?? [];
    const own = intervals.filter((interval) => interval.sandbox_id === id);
    const first = own[0]?.time_started.getTime();
    if (first === undefined) {
      if (state === "running" || state === "paused") found.push(`no use of ${id} is counted`);
      continue;
    }
    own.slice(1).forEach((interval, index) => {
      if (own[index]?.time_ended?.getTime() !== interval.time_started.getTime()) found.push(`the use of ${id} has a gap or an overlap`);
    });
    const end = own.at(-1)?.time_ended?.getTime();
    if (end !== stopped?.getTime()) found.push(`the use of ${id} ends at ${end}, its record at ${stopped?.getTime()}`);
    const counted = own.map((interval) => ({ state: interval.state, time: interval.time_started.getTime() }));
    // what took no time is not counted
    const lasting = happened.filter((phase, index) => phase.time !== happened[index + 1]?.time);
    const expected = lasting.filter((phase, index) => phase.time >= first || (lasting[index + 1]?.time ?? Infinity) > first);
    const relevant = expected.filter(({ time }) => end === undefined || time < end);
    if (shown(counted) !== shown(relevant.map((phase) => ({ ...phase, time: Math.max(phase.time, first) })))) {
      found.push(`the use of ${id} is counted as ${shown(counted)}; it was ${shown(relevant)}`);
    }
  }
  return found;
}

function shown(phases: readonly Phase[]): string {
  const merged = phases.filter(({ state }, index) => state !== phases[index - 1]?.state);
  return merged.map(({ state, time }) => `${state} ${new Date(time).toISOString().slice(11)}`).join(", ");
}
