import {
  newToken,
  PlatformError,
  portExceptionsMax,
  trafficTokenHeader,
  type PortAccess,
  type PortPolicy,
  type SandboxPort,
  type SandboxPorts,
  type SandboxState,
  type SignedPortUrl,
  type TrafficToken,
} from "@roost/contract";
import { second } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { OwnedId } from "../db/owned-id.ts";
import { changePorts, type PortColumns } from "../db/ports.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import type { PortKeys } from "../proxy/port-keys.ts";
import { withGrant, type PortUrls } from "../proxy/port-urls.ts";
import { accessOfOthers, accessOfPort, policyOf, recordedAccess } from "./port-access.ts";
import { present } from "./present.ts";
import type { SandboxRecords } from "./records.ts";

export interface PortsDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly keys: PortKeys;
  readonly urls: PortUrls;
}

/** It is gone or going: nobody will reach its ports. */
const isOver: ReadonlySet<SandboxState> = new Set(["stopping", "stopped"]);

/** Who may reach the ports of sandboxes. It is the edge alone that enforces it, so no host is asked. */
export class Ports {
  readonly #deps: PortsDependencies;

  constructor(deps: PortsDependencies) {
    this.#deps = deps;
  }

  async get(owned: OwnedId): Promise<SandboxPorts> {
    return this.#view(await this.#deps.records.get(owned));
  }

  async set(owned: OwnedId, policy: PortPolicy): Promise<SandboxPorts> {
    const { mask_request_host } = policy;
    const change = ({ network }: SandboxRow) => ({
      port_access: JSON.stringify(recordedAccess(policy)),
      network: JSON.stringify({ ...network, mask_request_host }),
    });
    return this.#view(await this.#change(owned, change));
  }

  async getPort(owned: OwnedId, port: number): Promise<SandboxPort> {
    return this.#viewPort(await this.#deps.records.get(owned), port);
  }

  /** `access`: null: as the sandbox's other ports */
  async setPort(owned: OwnedId, port: number, access: PortAccess | null): Promise<SandboxPort> {
    const row = await this.#change(owned, (before) => {
      const { [port]: _dropped, ...ports } = policyOf(before).ports;
      const next = access === null ? ports : { ...ports, [port]: access };
      if (Object.keys(next).length > portExceptionsMax) {
        throw new PlatformError(
          "request_invalid",
          `sandbox ${owned.id} has ${portExceptionsMax} ports already of which something else is said than of its others, and there may be no more`,
        );
      }
      return { port_access: JSON.stringify(recordedAccess({ access: accessOfOthers(before), ports: next })) };
    });
    return this.#viewPort(row, port);
  }

  async sign(owned: OwnedId, port: number, { path, expires_in_sec: lifeSec }: SignRequest): Promise<SignedPortUrl> {
    const row = await this.#deps.records.get(owned);
    requireNotOver(row);
    const expires = new Date(Math.ceil(Date.now() / second + lifeSec) * second);
    const grant = this.#deps.keys.sign({ sandboxId: row.id, port, keyNumber: row.port_key_number }, expires);
    return { url: withGrant(this.#deps.urls.origin(row.id, port), path, grant), expires_at: expires.toISOString() };
  }

  /** One that was made with public ports has none yet. */
  async token(owned: OwnedId): Promise<TrafficToken> {
    const row = await this.#deps.records.get(owned);
    return viewToken(row.traffic_token === null ? await this.#change(owned, () => ({})) : row);
  }

  /** Also ends what signed URLs opened. */
  async rotate(owned: OwnedId): Promise<TrafficToken> {
    return viewToken(await this.#change(owned, (row) => ({ traffic_token: newToken(), port_key_number: row.port_key_number + 1 })));
  }

  /** Whatever is changed: who may not come in without a token can be given one. */
  async #change(owned: OwnedId, change: (row: SandboxRow) => PortColumns): Promise<SandboxRow> {
    const { database, records } = this.#deps;
    const row = await changePorts(database.db, owned, (before) => {
      requireNotOver(present(before, records.now()));
      return { traffic_token: before.traffic_token ?? newToken(), ...change(before) };
    });
    if (row === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${owned.id}`);
    records.changedHere(row.id);
    return row;
  }

  #view(row: SandboxRow): SandboxPorts {
    return { ...policyOf(row), url: `${this.#deps.urls.origin(row.id, "{port}")}/` };
  }

  #viewPort(row: SandboxRow, port: number): SandboxPort {
    return { port, access: accessOfPort(row, port), url: `${this.#deps.urls.origin(row.id, port)}/` };
  }
}

interface SignRequest {
  readonly path: string;
  readonly expires_in_sec: number;
}

function viewToken(row: SandboxRow): TrafficToken {
  return { token: row.traffic_token ?? "", header: trafficTokenHeader };
}

function requireNotOver({ id, state }: SandboxRow): void {
  if (isOver.has(state)) throw new PlatformError("sandbox_wrong_state", `sandbox ${id} is ${state}: nobody reaches its ports any more`);
}
