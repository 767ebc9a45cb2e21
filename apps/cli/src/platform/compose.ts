import { createClient, createRouterTransport } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { createControlPlane, databaseLocation, openDatabase, type ControlPlaneOptions } from "@roost/control-plane";
import { createHostAgent, type HostAgentOptions } from "@roost/host-agent";
import { Cleanup, type Logger } from "@roost/kit";

import { ensureApiKey } from "./local-api-key.ts";
import { pauseSandboxes } from "./pause-sandboxes.ts";
import type { Served } from "./serve.ts";

/** Id of the one host of an embedded platform. */
const localHostId = "local";

/** Control plane and host agent in this process. */
export interface Platform extends Served {
  readonly url: string;
}

/**
 * The composition root: builds the two servers and joins them by Connect's in-memory transport. Neither knows that the
 * other is in the same process.
 */
export async function startPlatform(
  options: { readonly controlPlane: ControlPlaneOptions; readonly hostAgent: HostAgentOptions },
  log: Logger,
): Promise<Platform> {
  const owned = new Cleanup();
  try {
    // Taking the folder, sweeping and adopting come before anything is offered to users.
    const hostAgent = await createHostAgent(options.hostAgent, { log: log.child({ service: "host-agent" }) });
    owned.defer("end the host agent", async () => hostAgent.close({ stopSandboxes: false }));
    // Each of the two takes seconds on a small machine, and neither needs the other.
    const opening = openDatabase(databaseLocation(options.controlPlane), log);
    owned.defer("close the database", async () => (await opening.catch(() => undefined))?.close());
    const [database] = await Promise.all([opening, hostAgent.start()]);

    const transport = createRouterTransport(({ service }) => service(HostAgentService, hostAgent.service));
    const controlPlane = await createControlPlane(options.controlPlane, {
      hosts: [{ id: localHostId, transport, tunnels: hostAgent.tunnels }],
      database,
      log,
    });
    owned.defer("end the control plane", async () => controlPlane.close());
    await ensureApiKey(options.controlPlane.dir, controlPlane.apiKeys);
    const { url, tlsUrl } = await controlPlane.listen();

    return owned.handOver({
      url,
      tlsUrl,
      // first what users talk to, then what supports it
      drain: async () => {
        await controlPlane.drain();
        await hostAgent.drain();
      },
      pauseSandboxes: async (onProgress) => pauseSandboxes(createClient(HostAgentService, transport), onProgress),
      close: async ({ stopSandboxes }) => {
        const ending = new Cleanup(); // in reverse, and each whatever became of the one before
        ending.defer("end the host agent", async () => hostAgent.close({ stopSandboxes }));
        ending.defer("close the database", async () => database.close());
        ending.defer("end the control plane", async () => controlPlane.close());
        await ending.run();
      },
    });
  } catch (error) {
    await owned.run().catch((failure: unknown) => log.warn({ err: failure }, "a failed start was not undone completely"));
    throw error;
  }
}
