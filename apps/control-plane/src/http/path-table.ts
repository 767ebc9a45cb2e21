import { endpoints, type EndpointId } from "@roost/contract";

interface PathEntry {
  readonly pattern: RegExp;
  readonly methods: Set<string>;
}

/** Fastify's form of an OpenAPI path: `{id}` → `:id`. */
export function routePath(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ":$1");
}

function pathPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll(/\{(\w+)\}/g, "(?<$1>[^/]+)")}/?$`);
}

/** Which methods a path has, for 405 and `Allow`. */
export class PathTable {
  readonly #entries = new Map<string, PathEntry>();

  constructor(extra: readonly { readonly method: string; readonly path: string }[]) {
    for (const { method, path } of [...Object.values(endpoints), ...extra]) {
      const entry = this.#entries.get(path) ?? { pattern: pathPattern(path), methods: new Set<string>() };
      entry.methods.add(method);
      if (method === "GET") entry.methods.add("HEAD");
      this.#entries.set(path, entry);
    }
  }

  methodsOf(pathname: string): readonly string[] {
    const found = [...this.#entries.values()].find((entry) => entry.pattern.test(pathname));
    return found === undefined ? [] : [...found.methods];
  }
}

export type WebSocketEndpointId = {
  [Id in EndpointId]: (typeof endpoints)[Id] extends { readonly webSocket: object } ? Id : never;
}[EndpointId];

export type WebSocketAccess = (typeof endpoints)[WebSocketEndpointId]["access"];

const webSocketPaths = Object.entries(endpoints)
  .filter(([, endpoint]) => "webSocket" in endpoint)
  .map(([id, endpoint]) => ({ id: id as WebSocketEndpointId, pattern: pathPattern(endpoint.path) }));

/** The WebSocket endpoint at a path, with its parameters, percent-decoded. */
export function matchWebSocket(
  pathname: string,
): { readonly id: WebSocketEndpointId; readonly params: Readonly<Record<string, string>> } | undefined {
  for (const { id, pattern } of webSocketPaths) {
    const groups = pattern.exec(pathname)?.groups;
    if (groups === undefined) continue;
    try {
      return { id, params: Object.fromEntries(Object.entries(groups).map(([name, value]) => [name, decodeURIComponent(value)])) };
    } catch {
      return undefined; // not percent-encoding: no such path
    }
  }
  return undefined;
}
