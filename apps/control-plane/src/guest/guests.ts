import type { SandboxRow } from "../db/sandboxes.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { Guest, type GuestIdentity } from "./guest.ts";

/** The guests spoken to, one per running sandbox, made when first needed and dropped when their VM ends. */
export class Guests {
  readonly #hosts: Hosts;
  readonly #guests = new Map<string, Guest>();

  constructor(hosts: Hosts) {
    this.#hosts = hosts;
  }

  /** The guest of a running sandbox, as its record describes it now. */
  of(row: SandboxRow): Guest {
    const identity: GuestIdentity = {
      sandboxId: row.id,
      accessToken: row.access_token,
      vmKey: `${row.host_id}/${row.time_started?.getTime() ?? 0}`,
    };
    const known = this.#guests.get(row.id);
    if (known?.identity.vmKey === identity.vmKey && known.identity.accessToken === identity.accessToken) return known;
    known?.close();
    const guest = new Guest(identity, this.#hosts.get(row.host_id).tunnels);
    this.#guests.set(row.id, guest);
    return guest;
  }

  /** Ends all connections into a sandbox whose VM is gone. */
  drop(sandboxId: string): void {
    this.#guests.get(sandboxId)?.close();
    this.#guests.delete(sandboxId);
  }

  close(): void {
    for (const sandboxId of this.#guests.keys()) this.drop(sandboxId);
  }
}
