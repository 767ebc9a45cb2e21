import { createClient, createRouterTransport } from "@connectrpc/connect";
import { parseHostAddress } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import {
  checkToken,
  createHostAgent,
  digestOf,
  HostAgentServer,
  Membership,
  readIdentity,
  register,
  writeIdentity,
  type HostAgent,
  type HostAgentOptions,
  type HostIdentity,
  type MembershipOptions,
} from "@roost/host-agent";
import { Cleanup, must, type Logger } from "@roost/kit";

import { UsageError } from "../failure.ts";
import { HealthSocket } from "./health-socket.ts";
import { pauseSandboxes } from "./pause-sandboxes.ts";
import type { Served } from "./serve.ts";

/** A host's side of its membership that answered nothing for this long in `ms` after its start is not healthy, if it never did */
const firstAnswerMs = 30_000;

export interface HostAgentProcess extends Served {
  readonly hostId: string;
  readonly controlPlane: string;
  readonly address: string;
}

interface Wanted {
  /** Undefined: it is registered already */
  readonly token: string | undefined;
  readonly controlPlane: string;
  readonly address: string;
}

/** The host agent as a process of its own: sandboxes first, then the control plane, which may be away. */
export async function startHostAgentProcess(
  options: { readonly hostAgent: HostAgentOptions; readonly membership: MembershipOptions },
  log: Logger,
  signal: AbortSignal,
): Promise<HostAgentProcess> {
  const { dir } = options.hostAgent;
  const present = await readIdentity(dir);
  const wanted = whatIsWanted(options.membership, present);
  const { token } = wanted;
  if (token !== undefined) await checkToken({ token, controlPlane: wanted.controlPlane }); // before anything is begun for it
  const owned = new Cleanup();
  try {
    const hostAgent = await createHostAgent(options.hostAgent, { log: log.child({ service: "host-agent" }) });
    owned.defer("end the host agent", async () => hostAgent.close({ stopSandboxes: false }));
    await hostAgent.start();
    const describe = async () => (await hostAgent.report()).description;
    const identity =
      token === undefined
        ? await withPlaces(dir, must(present, "what needs no token is registered"), wanted)
        : await register({ dir, token, controlPlane: wanted.controlPlane, address: wanted.address, describe, log, signal });
    return owned.handOver(await join(hostAgent, identity, options, log));
  } catch (error) {
    await owned.run().catch((failure: unknown) => log.warn({ err: failure }, "a failed start was not undone completely"));
    throw error;
  }
}

/** A token that was used already is of no more use, and of no harm: a unit file may go on having it. */
function whatIsWanted({ register: given, controlPlane, address }: MembershipOptions, present: HostIdentity | undefined): Wanted {
  const token = given === undefined || present?.tokenDigest === digestOf(given) ? undefined : given;
  if (token === undefined && present === undefined) {
    throw new UsageError(
      "this machine is not registered as a host",
      "`roost host add` at the control plane makes a token; then `roost host-agent --register TOKEN --control-plane URL --address HOST:PORT`",
    );
  }
  const found = { controlPlane: controlPlane ?? present?.controlPlane, address: address ?? present?.address };
  if (found.controlPlane === undefined)
    throw new UsageError("--register needs --control-plane (ROOST_CONTROL_PLANE), as https://roost.example.org:7071");
  if (found.address === undefined)
    throw new UsageError("--register needs --address (ROOST_ADDRESS): host:port where the control plane reaches this machine");
  return { token, controlPlane: found.controlPlane, address: found.address };
}

/** The settings say where things are now; what is kept is for starts without them. */
async function withPlaces(dir: string, present: HostIdentity, { controlPlane, address }: Wanted): Promise<HostIdentity> {
  if (present.controlPlane === controlPlane && present.address === address) return present;
  const identity = { ...present, controlPlane, address };
  await writeIdentity(dir, identity);
  return identity;
}

async function join(
  hostAgent: HostAgent,
  identity: HostIdentity,
  options: { readonly hostAgent: HostAgentOptions; readonly membership: MembershipOptions },
  log: Logger,
): Promise<HostAgentProcess> {
  const { hostId, controlPlane, address } = identity;
  const { dir } = options.hostAgent;
  const hostLog = log.child({ hostId });
  await using owned = new Cleanup();
  const listen = must(parseHostAddress(options.membership.listen ?? address), "settings are checked");
  const { service, tunnels } = hostAgent;
  const server = await HostAgentServer.listen({ identity, service, tunnels, log: hostLog }, listen.host, listen.port);
  owned.defer("close the listener", async () => server.close());
  hostLog.info({ address, listen: `${listen.host}:${server.port}`, controlPlane }, "the host agent listens for its control plane");

  const startedMs = Date.now();
  const membership = new Membership({
    dir,
    identity,
    report: () => hostAgent.report(),
    onIdentity: (next) => server.useIdentity(next),
    onEnded: () => void hostAgent.drain(),
    log: hostLog,
  });
  const health = await HealthSocket.open(dir, () => {
    const status = membership.status;
    const isKnown = status.leaseEndsMs === null ? Date.now() - startedMs < firstAnswerMs : Date.now() < status.leaseEndsMs;
    return { healthy: isKnown && status.ended === null, address, ...status };
  });
  owned.defer("close the health socket", async () => health.close());
  const ending = new AbortController();
  const membershipRun = membership.run(ending.signal);
  const client = createClient(
    HostAgentService,
    createRouterTransport((router) => router.service(HostAgentService, service)),
  );
  return owned.handOver({
    hostId,
    controlPlane,
    address,
    url: null,
    drain: async () => {
      await hostAgent.drain();
      await server.drain();
    },
    pauseSandboxes: async (onProgress) => pauseSandboxes(client, onProgress),
    close: async ({ stopSandboxes }) => {
      const steps = new Cleanup(); // in reverse, and each whatever became of the one before
      steps.defer("end the host agent", async () => hostAgent.close({ stopSandboxes }));
      steps.defer("close the listener", async () => server.close());
      steps.defer("close the health socket", async () => health.close());
      steps.defer("end the heartbeats", async () => {
        ending.abort();
        await membershipRun;
      });
      await steps.run();
    },
  });
}
