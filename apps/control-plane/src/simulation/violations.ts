import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { Db } from "../db/database.ts";
import { listUnsettled } from "../db/reservations.ts";
import type { Simulation } from "./simulation.ts";

/** What is not as it should be once everything has become quiet. */
export async function violations(db: Db, simulation: Simulation): Promise<string[]> {
  const found: string[] = [];
  const records = new Map((await db.selectFrom("sandbox").selectAll().execute()).map((row) => [row.id, row]));
  const operations = await db.selectFrom("operation").selectAll().execute();
  const places = new Map<string, string>();

  for (const host of simulation.hosts) {
    for (const [id, sandbox] of host.sandboxes) {
      const state = SandboxState[sandbox.state].toLowerCase();
      const record = records.get(id);
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

  for (const id of await listUnsettled(db)) found.push(`the reservation of ${id} is not what its record says`);
  const held = await db.selectFrom("reservation").select("sandbox_id").where("held_by", "is not", null).execute();
  for (const { sandbox_id: id } of held) found.push(`the reservation of ${id} is held by nobody who works`);
  for (const { id, kind, state } of operations) if (state === "running") found.push(`operation ${id} (${kind}) runs for ever`);

  for (const [id, { state }] of simulation.known) {
    const actual = records.get(id)?.state;
    if (state === "gone" ? actual !== "stopped" && actual !== undefined : state !== "any" && actual !== state) {
      found.push(`clients were told that ${id} is ${state}; it is ${actual ?? "not there"}`);
    }
  }
  // Whatever is there, a client knows of: what was made for a request that was answered is in the answer
  const acknowledged = new Set(simulation.known.keys());
  for (const { id, state } of records.values()) {
    if (state !== "stopped" && state !== "failed" && !acknowledged.has(id)) found.push(`${id} is ${state}, and no client was told of it`);
  }
  for (const intent of simulation.unanswered) found.push(`never answered: ${JSON.stringify(intent)}`);
  for (const what of simulation.onItsWay) found.push(`still on its way: ${what}`);
  return found;
}
