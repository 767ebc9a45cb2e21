import { z } from "zod";

import { guestAgentPort } from "./host-agent.ts";
import { maskRequestHostSchema } from "./network.ts";
import { portExceptionsMax, signedPortUrlSecDefault, signedPortUrlSecMax, signedPortUrlSecMin } from "./limits.ts";

/** Carries the traffic token of a sandbox, which opens its private ports; the other name is E2B's. */
export const trafficTokenHeader = "roost-traffic-token";
export const e2bTrafficTokenHeader = "e2b-traffic-access-token";

/** Parameter of a URL that opens one port until a given instant; the guest never sees it. */
export const portGrantParameter = "roost_access";

/** Who may reach a port: `public` anybody, `private` who has the sandbox's traffic token or a signed URL. */
export const portAccesses = ["private", "public"] as const;
export const portAccessSchema = z.enum(portAccesses).describe("`public`: anybody; `private`: with the traffic token or a signed URL");
export type PortAccess = z.output<typeof portAccessSchema>;

/** A port as it stands in paths and as a key: a decimal number in its one form. */
export const portNameSchema = z
  .string()
  .regex(/^[1-9]\d{0,4}$/, "must be a port: a number from 1 to 65535")
  .refine((text) => Number(text) <= 65_535, "must be a port: a number from 1 to 65535")
  .refine((text) => Number(text) !== guestAgentPort, `${guestAgentPort} is the guest agent's port: it is reached with its own token alone`);

const exceptionsSchema = z
  .record(portNameSchema, portAccessSchema)
  .refine((ports) => Object.keys(ports).length <= portExceptionsMax, `has at most ${portExceptionsMax} ports`);

/** Who may reach the ports of a sandbox. */
export const portPolicySchema = z
  .strictObject({
    access: portAccessSchema.default("private"),
    ports: exceptionsSchema.default({}).describe("Port → who may reach it, where that is not `access`"),
    mask_request_host: maskRequestHostSchema.nullable().default(null),
  })
  .meta({ id: "PortPolicy" });
export type PortPolicy = z.output<typeof portPolicySchema>;
export type PortPolicyInput = z.input<typeof portPolicySchema>;

export const sandboxPortsSchema = z
  .object({
    access: portAccessSchema,
    ports: z.record(z.string(), portAccessSchema),
    mask_request_host: z.string().nullable().describe("Host header that the guest's servers see; null: the one that was sent"),
    url: z.string().describe("Where ports are; `{port}` stands for one"),
  })
  .meta({ id: "SandboxPorts" });
export type SandboxPorts = z.output<typeof sandboxPortsSchema>;

export const setPortBodySchema = z
  .strictObject({ access: portAccessSchema.nullable().describe("null: as the sandbox's other ports") })
  .meta({ id: "SetPort" });

export const sandboxPortSchema = z
  .object({ port: z.int(), access: portAccessSchema, url: z.string().describe("Where it is, for who may reach it") })
  .meta({ id: "SandboxPort" });
export type SandboxPort = z.output<typeof sandboxPortSchema>;

export const signPortBodySchema = z
  .strictObject({
    expires_in_sec: z.int().min(signedPortUrlSecMin).max(signedPortUrlSecMax).default(signedPortUrlSecDefault),
    path: z
      .string()
      .max(2_048)
      .regex(
        /^\/(?![/\\])[\x21-\x22\x24-\x7e]*$/,
        "must begin with one /, and have neither spaces nor a fragment, as it stands in a request",
      )
      .refine(
        (path) => !path.includes(`${portGrantParameter}=`),
        `must not have the parameter ${portGrantParameter}, which is about to be added`,
      )
      .default("/")
      .describe("Where the URL leads within the port; may have a query"),
  })
  .meta({ id: "SignPort" });
export type SignPortInput = z.input<typeof signPortBodySchema>;

export const signedPortUrlSchema = z.object({ url: z.string(), expires_at: z.iso.datetime() }).meta({ id: "SignedPortUrl" });
export type SignedPortUrl = z.output<typeof signedPortUrlSchema>;

export const trafficTokenSchema = z
  .object({ token: z.string().describe(`Opens all private ports, in the header \`${trafficTokenHeader}\``), header: z.string() })
  .meta({ id: "TrafficToken" });
export type TrafficToken = z.output<typeof trafficTokenSchema>;
