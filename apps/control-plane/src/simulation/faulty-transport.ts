import { Code, ConnectError, type Transport } from "@connectrpc/connect";

import { hostError } from "../testing/fake-images.ts";
import type { Life } from "./life.ts";

/** What becomes of a message to a host, and of its answer. */
export const fates = ["goes", "lost", "answer-lost", "late", "slow", "answer-slow", "twice", "refused"] as const;
export type Fate = (typeof fates)[number];

export interface Network {
  fate(hostId: string): Fate;
  /** Does it some time later; resolves when it was done. Not to be waited for: what comes of it is told to nobody. */
  later<Result>(what: string, work: () => Promise<Result>): Promise<Result>;
}

/** A way to a host on which messages are lost, late, repeated, and overtake each other. */
export function faultyTransport(inner: Transport, hostId: string, life: Life, network: Network): Transport {
  return {
    unary: async (method, _signal, _timeoutMs, header, message, contextValues) => {
      const call = async () => inner.unary(method, undefined, undefined, header, message, contextValues);
      const gone = () => new ConnectError("simulated: no answer", Code.DeadlineExceeded);
      const what = `${method.name} on ${hostId}`;
      const fate = network.fate(hostId);
      switch (fate) {
        case "lost":
          life.step();
          throw gone();
        case "answer-lost":
          await life.elsewhere(call);
          throw gone();
        case "late":
          life.step();
          network.later(what, call).catch(() => undefined); // nobody waits for it
          throw gone();
        case "slow": {
          life.step();
          const answer = await network.later(what, call);
          life.step();
          return answer;
        }
        case "answer-slow": {
          const answer = await life.elsewhere(call);
          await network.later(`the answer of ${what}`, async () => undefined);
          life.step();
          return answer;
        }
        case "twice": {
          const answer = await life.elsewhere(call);
          network.later(what, call).catch(() => undefined); // nobody waits for the second
          return answer;
        }
        case "refused": // of a create, for want of room: another host is asked then; all else goes
        case "goes": {
          if (fate === "refused" && method.localName === "createSandbox") {
            life.step();
            throw hostError("capacity_exhausted", "simulated: no room");
          }
          const answer = await life.elsewhere(call);
          life.step();
          return answer;
        }
      }
    },
    stream: async () => {
      throw new ConnectError("simulated: no streams", Code.Unimplemented);
    },
  };
}
