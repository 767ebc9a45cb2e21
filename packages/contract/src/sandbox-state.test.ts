import fc from "fast-check";
import { expect, test } from "vitest";

import { advance, decide, sandboxCan, sandboxStates, type SandboxEvent, type SandboxRequest, type SandboxState } from "./sandbox-state.ts";

const states = fc.constantFrom(...sandboxStates);
const requests: fc.Arbitrary<SandboxRequest> = fc.constantFrom(
  ...(["stop", "pause", "resume", "snapshot", "use"] as const).map((kind): SandboxRequest => ({ kind })),
);
const events: fc.Arbitrary<SandboxEvent> = fc.constantFrom<SandboxEvent[]>(
  { kind: "completed" },
  { kind: "rolled-back" },
  { kind: "vm-lost" },
  { kind: "snapshot-ended", from: "running" },
  { kind: "snapshot-ended", from: "paused" },
);

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

test("offered actions are those that are not refused", () => {
  fc.assert(
    fc.property(states, requests, (state, request) => {
      if (sandboxCan(request.kind, state)) expect(decide(state, request).kind).not.toBe("deny");
    }),
  );
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

function isRequest(step: SandboxRequest | SandboxEvent): step is SandboxRequest {
  return ["stop", "pause", "resume", "snapshot", "use"].includes(step.kind);
}
