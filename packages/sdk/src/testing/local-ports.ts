import { newToken, portPolicySchema, trafficTokenHeader, type PortAccess, type PortPolicy } from "@roost/contract";

import type { FakeHandlers } from "./fake-call.ts";

/** Who may reach ports, only remembered: nothing enforces it. */
export function localPortHandlers(): FakeHandlers["http"] {
  const policies = new Map<string, PortPolicy>();
  const tokens = new Map<string, string>();
  const policyOf = (id = "") => policies.get(id) ?? { access: "private" as const, ports: {}, mask_request_host: null };
  const urlOf = (id = "", port = "{port}") => `http://${port}-${id}.sandbox.localhost:7070/`;
  const view = (id = "") => ({ ...policyOf(id), url: urlOf(id) });
  const viewPort = (id = "", port = "") => {
    const { access, ports } = policyOf(id);
    return { port: Number(port), access: ports[port] ?? access, url: urlOf(id, port) };
  };
  const tokenOf = (id = "") => {
    const token = tokens.get(id) ?? newToken();
    tokens.set(id, token);
    return { token, header: trafficTokenHeader };
  };
  return {
    getPorts: ({ parameters: { id } }) => view(id),
    setPorts: ({ parameters: { id = "" }, body }) => {
      policies.set(id, portPolicySchema.parse(body));
      return view(id);
    },
    getPort: ({ parameters: { id, port } }) => viewPort(id, port),
    setPort: ({ parameters: { id = "", port = "" }, body }) => {
      const { access } = body as { readonly access: PortAccess | null };
      const { ports, ...others } = policyOf(id);
      const { [port]: _dropped, ...rest } = ports;
      policies.set(id, { ...others, ports: access === null ? rest : { ...rest, [port]: access } });
      return viewPort(id, port);
    },
    signPort: ({ parameters: { id, port }, body }) => {
      const { path, expires_in_sec: lifeSec } = body as { readonly path: string; readonly expires_in_sec: number };
      const url = new URL(path, urlOf(id, port));
      url.searchParams.set("roost_access", "v1.fake");
      return { url: url.href, expires_at: new Date(Date.now() + lifeSec * 1_000).toISOString() };
    },
    getTrafficToken: ({ parameters: { id } }) => tokenOf(id),
    rotateTrafficToken: ({ parameters: { id = "" } }) => {
      tokens.delete(id);
      return tokenOf(id);
    },
  };
}
