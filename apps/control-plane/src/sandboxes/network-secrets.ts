import { mapHeaderValues, networkPolicySchema, type NetworkPolicy } from "@roost/contract";
import { must, SecretBox } from "@roost/kit";
import { z } from "zod";

/** A policy as its record has it: fields may be missing, for which the schema has defaults, and what nobody is shown is sealed. */
export interface RecordedNetwork extends Readonly<Partial<NetworkPolicy>> {
  /** base64; absent: there is nothing */
  readonly sealed?: string;
}

const purpose = "network policies of sandboxes";

const secretsSchema = z.object({
  password: z.string().optional(),
  /** Values of headers by domain and name */
  rules: z.record(z.string(), z.record(z.string(), z.string())),
});
type Secrets = z.infer<typeof secretsSchema>;

/**
 * Passwords of egress proxies and values of headers: sealed with the installation's key where the database has them, each for its sandbox, so that neither a copy of the database nor who
 * moves a value to another row learns one. Hosts are told them, and nobody else.
 */
export class NetworkSecrets {
  readonly #box: SecretBox | undefined;

  /** Without a key no policy that has secrets can be recorded. */
  constructor(secretKey: string | undefined) {
    this.#box = secretKey === undefined ? undefined : new SecretBox(secretKey, purpose);
  }

  seal(policy: NetworkPolicy, sandboxId: string): RecordedNetwork {
    const { password, ...proxy } = policy.egress_proxy ?? {};
    const secrets: Secrets = {
      ...(password === undefined ? {} : { password }),
      rules: Object.fromEntries(Object.entries(policy.rules).map(([domain, { headers }]) => [domain, { ...headers }])),
    };
    if (password === undefined && Object.keys(secrets.rules).length === 0) return policy;
    return {
      ...policy,
      egress_proxy: policy.egress_proxy === null ? null : (proxy as NetworkPolicy["egress_proxy"]),
      rules: mapHeaderValues(policy.rules, () => ""),
      sealed: this.#opened().seal(JSON.stringify(secrets), sandboxId).toString("base64"),
    };
  }

  /** With its secrets. A record from before they were sealed has its password in the clear, until `sealOld` has seen it. */
  open({ sealed, ...recorded }: RecordedNetwork, sandboxId: string): NetworkPolicy {
    const policy = networkPolicySchema.parse(recorded);
    if (sealed === undefined) return policy;
    const secrets = secretsSchema.parse(JSON.parse(this.#opened().open(Buffer.from(sealed, "base64"), sandboxId)));
    const { egress_proxy: proxy } = policy;
    return {
      ...policy,
      egress_proxy: proxy === null || secrets.password === undefined ? proxy : { ...proxy, password: secrets.password },
      rules: mapHeaderValues(policy.rules, (_, domain, name) => secrets.rules[domain]?.[name] ?? ""),
    };
  }

  /** The same for another sandbox. */
  copy(recorded: RecordedNetwork, from: string, to: string): RecordedNetwork {
    return this.seal(this.open(recorded, from), to);
  }

  #opened(): SecretBox {
    return must(this.#box, "a key, where policies have secrets");
  }
}
