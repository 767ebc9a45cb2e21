import { trustVariables, type TrustedFiles } from "../init/trusted-authority.ts";
import type { GuestUser } from "../users/users.ts";

/** Where programs are looked for unless the environment says otherwise. */
const pathDefault = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export interface SandboxIdentity {
  readonly sandboxId: string | undefined;
  readonly templateId: string | undefined;
  /** Of the authority that its programs are to trust; undefined: there is none */
  readonly trusted?: TrustedFiles | undefined;
}

export interface EnvironmentParts {
  readonly user: GuestUser;
  readonly identity: SandboxIdentity;
  /** from `/init` */
  readonly initEnvs: Readonly<Record<string, string>>;
  readonly requestEnvs: Readonly<Record<string, string>>;
  readonly hasTerminal: boolean;
}

/** Environment of a process; later wins: what every login has, the sandbox's, `/init`'s, the request's. Nothing of the agent's own. */
export function processEnvironment({ user, identity, initEnvs, requestEnvs, hasTerminal }: EnvironmentParts): Record<string, string> {
  return {
    PATH: pathDefault,
    HOME: user.home,
    USER: user.name,
    LOGNAME: user.name,
    SHELL: user.shell,
    ...(hasTerminal ? { TERM: "xterm-256color" } : {}),
    ...sandboxVariables(identity, initEnvs),
    ...requestEnvs,
  };
}

/** The sandbox's own part: what tells which one it is, whom to trust, and `/init`'s. */
export function sandboxVariables(
  { sandboxId, templateId, trusted }: SandboxIdentity,
  initEnvs: Readonly<Record<string, string>>,
): Record<string, string> {
  return {
    ROOST_SANDBOX: "true",
    E2B_SANDBOX: "true",
    ...(sandboxId === undefined ? {} : { ROOST_SANDBOX_ID: sandboxId, E2B_SANDBOX_ID: sandboxId }),
    ...(templateId === undefined ? {} : { ROOST_TEMPLATE_ID: templateId, E2B_TEMPLATE_ID: templateId }),
    ...trustVariables(trusted),
    ...initEnvs,
  };
}
