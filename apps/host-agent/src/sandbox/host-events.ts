import { randomUUID } from "node:crypto";

import type { EventKind } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { LogStore } from "../logs/log-store.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import type { Watchers } from "./watchers.ts";

/** Something that happened on this host, for users and operators. */
export interface HostEvent {
  /** Random: who hears of it twice knows by it */
  readonly id: string;
  readonly timeMs: number;
  readonly kind: EventKind;
  readonly sandboxId: string | undefined;
  readonly template: string | undefined;
  /** For people */
  readonly message: string;
  readonly detail: Readonly<Record<string, string>>;
}

export interface HostEventAbout {
  readonly sandboxId?: string;
  readonly template?: string;
  readonly message: string;
  readonly detail?: Readonly<Record<string, string>>;
}

/** Events that are told again to who begins to watch: what happened while nobody did. */
const rememberedMax = 200;

/** Tells what happened: to the log, to the log of the sandbox, and to whoever watches the host. */
export class HostEvents {
  readonly #watchers: Watchers<SandboxRecord>;
  readonly #logs: LogStore;
  readonly #log: Logger;
  readonly #recent: HostEvent[] = [];

  constructor(watchers: Watchers<SandboxRecord>, logs: LogStore, log: Logger) {
    this.#watchers = watchers;
    this.#logs = logs;
    this.#log = log;
  }

  /** The newest events, oldest first. */
  get recent(): readonly HostEvent[] {
    return this.#recent;
  }

  emit(kind: EventKind, about: HostEventAbout): void {
    const { sandboxId, template, message, detail = {} } = about;
    this.#log.info({ event: kind, sandboxId, template, ...detail }, message);
    const event: HostEvent = { id: randomUUID(), timeMs: Date.now(), kind, sandboxId, template, message, detail };
    this.#recent.push(event);
    if (this.#recent.length > rememberedMax) this.#recent.shift();
    this.#logs.tell(event);
    this.#watchers.publish({ kind: "event", event });
  }
}
