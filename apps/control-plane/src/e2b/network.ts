import {
  allowOutSchema,
  denyOutSchema,
  deniesAll,
  domainsNeedDenyAll,
  egressProxySchema,
  headerRulesSchema,
  isDomain,
  mapHeaderValues,
  maskRequestHostSchema,
  networkPolicySchema,
  PlatformError,
  redactedValue,
  ruleHeadersSchema,
  type EgressProxy,
  type HeaderRules,
  type NetworkPolicy,
} from "@roost/contract";
import type { FastifyInstance } from "fastify";
import { z } from "zod";

import type { Services } from "../http/services.ts";
import type { EgressWishes } from "../sandboxes/network.ts";
import { addE2bRoute } from "./route.ts";

const noTls = "ports of sandboxes are reached without TLS; leave it out";

/** E2B's clients send `null` for what is absent. `protocol` is not E2B's: its proxies are all SOCKS5. */
const egressProxyFieldSchema = z.preprocess(
  (given) =>
    typeof given === "object" && given !== null ? Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null)) : given,
  egressProxySchema.nullish(),
);

/** A list of rules for each domain, of which E2B takes one; what it does to a request is to set headers. */
const rulesFieldSchema = z
  .record(
    z.string(),
    z
      .array(z.object({ transform: z.object({ headers: ruleHeadersSchema.nullish() }).nullish() }))
      .max(1, "at most one rule for each domain"),
  )
  .transform((rules) => {
    const headersOf = (domain: string) => rules[domain]?.[0]?.transform?.headers ?? {};
    const domains = Object.keys(rules).filter((domain) => Object.keys(headersOf(domain)).length > 0);
    return Object.fromEntries(domains.map((domain) => [domain, { headers: headersOf(domain) }]));
  })
  .pipe(headerRulesSchema);

/** What a guest may reach, in E2B's words. `null` means absent, as its clients send it. */
const egressFields = {
  allowOut: allowOutSchema.nullish(),
  denyOut: denyOutSchema.nullish(),
  egressProxy: egressProxyFieldSchema,
  rules: rulesFieldSchema.nullish(),
};

/** The part `network` of a create. */
export const e2bNetworkSchema = z.object({
  ...egressFields,
  allowPublicTraffic: z.boolean().nullish(),
  maskRequestHost: maskRequestHostSchema.nullish(),
  httpsPorts: z
    .array(z.unknown())
    .nullish()
    .refine((ports) => (ports ?? []).length === 0, noTls),
});

const replaceNetworkSchema = z.object({ ...egressFields, allow_internet_access: z.boolean().nullish() });

/** A create's wishes about the network, in E2B's words. */
export interface E2bNetworkWishes {
  readonly network?: z.output<typeof e2bNetworkSchema> | undefined;
  readonly allow_internet_access?: boolean | undefined;
  readonly secure?: boolean | undefined;
}

export function networkFromE2b(wishes: E2bNetworkWishes): NetworkPolicy {
  const { allow_internet_access: allowInternet, secure } = wishes;
  const network: z.output<typeof e2bNetworkSchema> = wishes.network ?? {};
  const isPublic = network.allowPublicTraffic ?? true;
  // Without the access token whoever knows the sandbox's id could read the traffic token in the guest
  if (!isPublic && secure !== true) throw new PlatformError("request_invalid", "network.allowPublicTraffic: false needs secure: true");
  return networkPolicySchema.parse({
    ...egressFromE2b(network, allowInternet, "network.allowOut"),
    is_public: isPublic,
    mask_request_host: network.maskRequestHost ?? null,
  });
}

/** `field`: how the caller calls the list of what is allowed. */
function egressFromE2b(
  given: {
    readonly allowOut?: string[] | null | undefined;
    readonly denyOut?: string[] | null | undefined;
    readonly egressProxy?: EgressProxy | null | undefined;
    readonly rules?: HeaderRules | null | undefined;
  },
  allowInternet: boolean | null | undefined,
  field: string,
): EgressWishes {
  const egress = {
    allow_internet: allowInternet ?? true,
    allow_out: given.allowOut ?? [],
    deny_out: given.denyOut ?? [],
    egress_proxy: given.egressProxy ?? null,
    rules: given.rules ?? {},
  };
  const domain = egress.allow_out.find(isDomain);
  if (domain !== undefined && !deniesAll(egress)) {
    throw new PlatformError("request_invalid", `${field}: ${JSON.stringify(domain)} is not accepted: ${domainsNeedDenyAll}`);
  }
  return egress;
}

export function networkToE2b(policy: NetworkPolicy) {
  return {
    allowOut: policy.allow_out,
    denyOut: policy.deny_out,
    allowPublicTraffic: policy.is_public,
    ...(policy.mask_request_host === null ? {} : { maskRequestHost: policy.mask_request_host }),
    ...(Object.keys(policy.rules).length === 0 ? {} : { rules: rulesToE2b(policy.rules) }),
    ...(policy.egress_proxy === null ? {} : { egressProxy: proxyToE2b(policy.egress_proxy) }),
  };
}

/** Without values, which are never told. */
function rulesToE2b(rules: HeaderRules) {
  const shown = mapHeaderValues(rules, () => redactedValue);
  return Object.fromEntries(Object.entries(shown).map(([domain, { headers }]) => [domain, [{ transform: { headers } }]]));
}

/** Without its password, which is never told. */
function proxyToE2b({ protocol, address, username }: EgressProxy) {
  return { address, ...(username === undefined ? {} : { username }), ...(protocol === "socks5" ? {} : { protocol }) };
}

/** What a running or paused sandbox may reach: replaced as a whole, so what is left out is cleared. */
export function addE2bNetworkRoutes(app: FastifyInstance, { sandboxes }: Services): void {
  addE2bRoute(app, "setSandboxNetwork", { body: replaceNetworkSchema }, async ({ sandbox, body }) => {
    const egress = egressFromE2b(body, body.allow_internet_access, "allowOut");
    await sandboxes.connects.present(sandbox);
    await sandboxes.networks.replaceEgress(sandbox, egress);
  });
}
