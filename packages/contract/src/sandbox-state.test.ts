import fc from "fast-check";
import { expect, test } from "vitest";

import {
  advance,
  decide,
  sandboxActions,
  sandboxCan,
  sandboxHasVm,
  sandboxRequestKinds,
  sandboxStates,
  type SandboxEvent,
  type SandboxRequest,
  type SandboxState,
} from "./sandbox-state.ts";

const allRequests: readonly SandboxRequest[] = [
  { kind: "stop" },
  { kind: "pause" },
  { kind: "resume", memory: true },
  { kind: "resume", memory: false },
  { kind: "snapshot" },
  { kind: "checkpoint" },
  { kind: "fork" },
  { kind: "rollback" },
  { kind: "use" },
  { kind: "use", hasVm: true },
];
const allEvents: readonly SandboxEvent[] = [
  { kind: "completed" },
  { kind: "rolled-back" },
  { kind: "rolled-back", to: "paused" },
  { kind: "rolled-back", to: "failed" },
  { kind: "vm-lost", hasGeneration: true },
  { kind: "vm-lost", hasGeneration: false },
  { kind: "snapshot-ended", from: "running" },
  { kind: "snapshot-ended", from: "paused" },
];
const states = fc.constantFrom(...sandboxStates);
const requests = fc.constantFrom(...allRequests);
const events = fc.constantFrom(...allEvents);

test("every kind of request is asked about here", () => {
  expect([...new Set(allRequests.map(({ kind }) => kind))].sort()).toEqual([...sandboxRequestKinds].sort());
});

test("stop is always possible: it is accepted or already so", () => {
  for (const state of sandboxStates) expect(decide(state, { kind: "stop" }).kind).not.toBe("deny");
});

test("nothing leaves the end state", () => {
  fc.assert(
    fc.property(requests, events, (request, event) => {
      expect(decide("stopped", request).kind).not.toBe("accept");
      expect(advance("stopped", event)).toBeUndefined();
    }),
  );
});

test("asking twice is the same as asking once: an accepted request is never accepted again before its change ended", () => {
  fc.assert(
    fc.property(states, requests, (state, request) => {
      const first = decide(state, request);
      if (first.kind !== "accept") return;
      expect(decide(first.next, request).kind).not.toBe("accept");
    }),
  );
});

test("an action is offered exactly where some request of its kind is accepted, and use where the guest can be talked to", () => {
  for (const kind of sandboxRequestKinds) {
    for (const state of sandboxStates) {
      const decisions = allRequests.filter((request) => request.kind === kind).map((request) => decide(state, request).kind);
      const isOffered = kind === "use" ? decide(state, { kind: "use" }).kind === "ignore" : decisions.includes("accept");
      expect(sandboxCan(kind, state), `${kind} in ${state}`).toBe(isOffered);
    }
  }
  expect(Object.keys(sandboxActions).sort()).toEqual([...sandboxRequestKinds].sort());
});

test("a failed sandbox starts from its disk, never from memory", () => {
  expect(decide("failed", { kind: "resume", memory: false })).toEqual({ kind: "accept", next: "resuming" });
  expect(decide("failed", { kind: "resume", memory: true })).toEqual({ kind: "deny", reason: "has-failed" });
});

test("a VM that is lost costs what came after the last generation, and everything where there is none", () => {
  for (const state of sandboxStates) {
    const [back, without] = [true, false].map((hasGeneration) => advance(state, { kind: "vm-lost", hasGeneration }));
    expect(without, state).toBe(sandboxHasVm(state) ? "failed" : undefined);
    expect(back, state).toBe(!sandboxHasVm(state) ? undefined : state === "creating" ? "failed" : "paused");
  }
});

test("a change that fails leaves the sandbox where it was, or says that it is not there any more", () => {
  expect(advance("pausing", { kind: "rolled-back" })).toBe("running");
  expect(advance("resuming", { kind: "rolled-back" })).toBe("paused");
  expect(advance("resuming", { kind: "rolled-back", to: "failed" })).toBe("failed");
  expect(advance("creating", { kind: "rolled-back", to: "paused" })).toBe("failed");
  expect(advance("running", { kind: "rolled-back", to: "failed" })).toBeUndefined();
});

test("the guest of a sandbox that is being saved while it runs can be used; one without a VM cannot", () => {
  expect(decide("snapshotting", { kind: "use", hasVm: true }).kind).toBe("ignore");
  for (const state of sandboxStates) {
    if (state !== "snapshotting") expect(decide(state, { kind: "use", hasVm: true })).toEqual(decide(state, { kind: "use" }));
  }
});

test("any history of requests and events stays inside the states, and a stop then ends it", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(requests, events), { maxLength: 60 }), (history) => {
      let state: SandboxState = "creating";
      for (const step of history) {
        if (isRequest(step)) {
          const decision = decide(state, step);
          if (decision.kind === "accept") state = decision.next;
        } else state = advance(state, step) ?? state;
        expect(sandboxStates).toContain(state);
      }
      const stop = decide(state, { kind: "stop" });
      if (stop.kind === "accept") state = stop.next;
      if (state === "stopping") state = advance(state, { kind: "completed" }) ?? state;
      expect(state).toBe("stopped");
    }),
  );
});

test("from every state that is not an end or on its way there, a running sandbox can be reached", () => {
  for (const start of sandboxStates) {
    if (start === "stopping" || start === "stopped") continue;
    const reached = new Set<SandboxState>([start]);
    for (const state of reached) {
      for (const request of allRequests) {
        const decision = decide(state, request);
        if (decision.kind === "accept") reached.add(decision.next);
      }
      for (const event of allEvents) {
        const next = advance(state, event);
        if (next !== undefined) reached.add(next);
      }
    }
    expect([...reached], start).toContain("running");
  }
});

function isRequest(step: SandboxRequest | SandboxEvent): step is SandboxRequest {
  return sandboxRequestKinds.some((kind) => kind === step.kind);
}
