import type { z } from "zod";

import { providerSchema, sessionIdSchema, userIdSchema } from "../accounts.ts";
import { apiKeyIdSchema } from "../api-keys.ts";
import { channelIdSchema, deliveryIdSchema } from "../channels.ts";
import { processSelectorSchema } from "../guest-use.ts";
import { hostIdSchema, sandboxIdSchema } from "../ids.ts";
import { invitationIdSchema } from "../members.ts";
import { operationIdSchema } from "../operations.ts";
import { portNameSchema } from "../ports.ts";
import { filesHashSchema } from "../recipes.ts";
import { templateReferenceSchema } from "../sandboxes.ts";
import { teamIdSchema } from "../teams.ts";
import { buildIdSchema, templateTagSchema } from "../templates.ts";

/** What may stand in braces in an endpoint's path, with what it has to be. */
export const pathParameters = {
  id: { schema: sandboxIdSchema, description: "Sandbox id" },
  port: { schema: portNameSchema, description: "Port of a sandbox" },
  selector: { schema: processSelectorSchema, description: "Pid, or a tag when it is not all digits" },
  name: { schema: templateReferenceSchema, description: "Name of a template or snapshot" },
  build: { schema: buildIdSchema, description: "Id of a build" },
  hash: { schema: filesHashSchema, description: "SHA-256 of what an archive holds, as the recipe names it" },
  tag: { schema: templateTagSchema, description: "Tag of a template" },
  operation: { schema: operationIdSchema, description: "Id of an operation" },
  key: { schema: apiKeyIdSchema, description: "Id of an API key, not the key itself" },
  team: { schema: teamIdSchema, description: "Id of a team" },
  user: { schema: userIdSchema, description: "Id of a user" },
  invitation: { schema: invitationIdSchema, description: "Id of an invitation" },
  session: { schema: sessionIdSchema, description: "Id of a session" },
  provider: { schema: providerSchema, description: "Who else vouches for a user" },
  host: { schema: hostIdSchema, description: "Id of a host" },
  channel: { schema: channelIdSchema, description: "Id of a channel" },
  delivery: { schema: deliveryIdSchema, description: "Id of a delivery" },
} as const satisfies Record<string, { readonly schema: z.ZodType; readonly description: string }>;

type NameIn<Path extends string> = Path extends `${string}{${infer Name}}${infer Rest}` ? Name | NameIn<Rest> : never;

/** The parameters of a path, parsed. One that is not in the table is `never`. */
export type ParametersOf<Path extends string> = {
  readonly [Name in NameIn<Path>]: Name extends keyof typeof pathParameters ? z.output<(typeof pathParameters)[Name]["schema"]> : never;
};

/** Names of the parameters of a path, in its order. */
export function parameterNames(path: string): readonly (keyof typeof pathParameters)[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => {
    if (!Object.hasOwn(pathParameters, name)) throw new Error(`the parameter "${name}" of ${path} is not in the table of parameters`);
    return name as keyof typeof pathParameters;
  });
}
