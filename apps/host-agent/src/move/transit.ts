import { PlatformError } from "@roost/contract";

import type { RecordKeeper } from "../sandbox/record-keeper.ts";
import type { SandboxLife } from "../sandbox/sandbox-life.ts";
import type { SandboxRecord } from "../sandbox/sandbox-record.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { BasedOn } from "../sandbox/admit.ts";
import type { HostEvents } from "../sandbox/host-events.ts";

/**
 * A sandbox that is being moved is held still by a field of its record, `transit`, on both hosts: from before the first byte is read at the one, and from before anybody is told that
 * it is there at the other. So neither host starts, changes or tidies it, however late a call comes and however often the host agent ends, and what was read stays what it is. Which of
 * the two it is on, only the control plane says, once and for ever, by a write to its database; after that it ends the move on both (`endMove`).
 *
 * The alternative, a lease that ends by itself, would need the two hosts' clocks and the control plane's to agree on when it did.
 */
export interface TransitParts {
  readonly keeper: RecordKeeper;
  readonly life: SandboxLife;
}

/** Holds a saved sandbox still for a move. `sandbox_wrong_state` when it runs, `sandbox_busy` when another move holds it. Idempotent. */
export async function hold(
  sandbox: Sandbox,
  moveId: string,
  basedOn: BasedOn,
  freeze: (record: SandboxRecord) => Promise<void>,
): Promise<void> {
  const { transit } = sandbox.record;
  const isHeld = transit !== null && transit.moveId === moveId && !transit.arriving;
  await sandbox.inTransit(
    async ({ keeper, life }) => {
      const { state, transit: present } = keeper.current;
      if (present !== null) {
        if (present.moveId === moveId && !present.arriving) return;
        throw new PlatformError("sandbox_busy", "the sandbox is being moved by somebody else; try again in a moment", { retryAfterSec: 5 });
      }
      if (state !== "paused" && state !== "failed") {
        throw new PlatformError(
          "sandbox_wrong_state",
          `only a saved sandbox is moved to another host, and this one is ${state}; pause it first`,
        );
      }
      await life.endUpkeep();
      await freeze(keeper.current);
      await keeper.save({ transit: { moveId, arriving: false } });
    },
    isHeld ? {} : basedOn,
  );
}

/**
 * The end of a move here. `stays`: the sandbox goes on here; else nothing of it is left here, and nobody is told that it ended, because it did not. Does nothing to a sandbox that this
 * move does not hold: a late call must not end what came later.
 */
export async function endMove(sandbox: Sandbox, moveId: string, { stays }: { readonly stays: boolean }, events: HostEvents): Promise<void> {
  if (sandbox.record.transit?.moveId !== moveId) return;
  if (stays) {
    await sandbox.inTransit(async ({ keeper }) => {
      if (keeper.current.transit?.moveId === moveId) await keeper.save({ transit: null });
    });
    return;
  }
  if (!sandbox.record.transit.arriving) {
    events.emit("sandbox.moved", { sandboxId: sandbox.id, message: "sandbox was moved to another host" });
    await events.durable(); // else the next start would take it for deleted
  }
  await sandbox.stop("moved");
}
