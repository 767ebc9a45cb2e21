import { PassThrough } from "node:stream";

import { guestAgentPort, type PlatformError } from "@roost/contract";
import { expect, test } from "vitest";

import type { SandboxRow } from "../db/sandboxes.ts";
import { GuestConnections } from "./guest-connections.ts";

const connections = () => new GuestConnections(() => ({ connect: async () => new PassThrough() }));
const row = (startedMs: number, hostId = "host") => ({ id: "a", host_id: hostId, time_started: new Date(startedMs) }) as SandboxRow;

test("one client per VM; a VM that was started later takes its place", () => {
  const guests = connections();
  const first = guests.agentOf(row(1), guestAgentPort, true);
  expect(guests.agentOf(row(1), guestAgentPort, false)).toBe(first);
  expect(guests.agentOf(row(1), 3000, true)).toBe(first);
  expect(guests.agentOf(row(1), 3000, false)).not.toBe(first);
  expect(guests.agentOf(row(2), guestAgentPort, true)).not.toBe(first);
});

test("a record that is behind does not end the connections to the VM that runs", () => {
  const guests = connections();
  const later = guests.agentOf(row(2), guestAgentPort, true);
  expect(() => guests.agentOf(row(1), guestAgentPort, true)).toThrow(
    expect.objectContaining({ code: "sandbox_wrong_state" }) as PlatformError,
  );
  expect(guests.agentOf(row(2), guestAgentPort, true)).toBe(later);
  guests.drop("a");
  expect(guests.agentOf(row(2), guestAgentPort, true)).not.toBe(later);
});
