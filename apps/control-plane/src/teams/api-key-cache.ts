import type { ApiKey } from "./api-keys.ts";

/**
 * How long a look-up is believed in `ms`, from when it began: so a key that another control plane revoked stops working within this time. One
 * query per key and second is nothing to the database; one per request would be most of what it does.
 */
export const apiKeyCacheMs = 1_000;
/** Keys remembered; above, the oldest is forgotten */
const knownMax = 10_000;
/** What is no key is remembered apart, so that whoever tries keys does not push out those of others */
const unknownMax = 1_000;

interface Entry {
  readonly key: ApiKey | undefined;
  readonly timeAsked: number;
}

/** Look-ups of keys by the hash of their digits. Those who ask for the same key at once share one query. */
export class ApiKeyCache {
  readonly #lookUp: (hash: Buffer) => Promise<ApiKey | undefined>;
  readonly #now: () => number;
  readonly #known = new Map<string, Entry>();
  readonly #unknown = new Map<string, Entry>();
  #asking = new Map<string, Promise<ApiKey | undefined>>();

  constructor(lookUp: (hash: Buffer) => Promise<ApiKey | undefined>, now: () => number) {
    this.#lookUp = lookUp;
    this.#now = now;
  }

  async find(hash: Buffer): Promise<ApiKey | undefined> {
    const name = hash.toString("latin1");
    const entry = this.#known.get(name) ?? this.#unknown.get(name);
    if (entry !== undefined && this.#now() - entry.timeAsked < apiKeyCacheMs) return entry.key;
    const asking = this.#asking;
    const asked = asking.get(name) ?? this.#ask(name, hash, asking).finally(() => asking.delete(name));
    asking.set(name, asked);
    return asked;
  }

  /** Nothing that was asked before is believed from now on, also not what is still on its way. */
  clear(): void {
    this.#known.clear();
    this.#unknown.clear();
    this.#asking = new Map();
  }

  async #ask(name: string, hash: Buffer, asking: ReadonlyMap<string, unknown>): Promise<ApiKey | undefined> {
    const timeAsked = this.#now();
    const key = await this.#lookUp(hash);
    if (asking !== this.#asking) return key;
    this.#known.delete(name);
    this.#unknown.delete(name);
    const [entries, max] = key === undefined ? [this.#unknown, unknownMax] : [this.#known, knownMax];
    entries.set(name, { key, timeAsked });
    if (entries.size > max) {
      const oldest = entries.keys().next();
      if (oldest.done !== true) entries.delete(oldest.value);
    }
    return key;
  }
}
