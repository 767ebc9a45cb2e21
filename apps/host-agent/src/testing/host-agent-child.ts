import { createClient, createRouterTransport } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";

import { createHostAgent } from "../host-agent.ts";
import { hostAgentOptions } from "../options.ts";
import { aSpec } from "./fake-host.ts";

// A host agent in a process of its own, for tests that kill it. Creates a sandbox of each id given, says when they run, and
// begins another create that stops when its VM is there, and never goes on.
const [dir = "", halfWay = "", ...ids] = process.argv.slice(2);
const agent = await createHostAgent(hostAgentOptions.read({ ...process.env }, { dir }), {
  log: silentLogger,
  onStep: async (step, sandboxId) => {
    if (step === "await-guest" && sandboxId === halfWay) await new Promise(() => undefined);
  },
});
await agent.start();
const client = createClient(
  HostAgentService,
  createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
);
for (const sandboxId of ids) await client.createSandbox({ spec: aSpec({ sandboxId, accessToken: `token-of-${sandboxId}` }) });
void client.createSandbox({ spec: aSpec({ sandboxId: halfWay }) });
for await (const { event } of client.watchSandboxes({})) {
  if (event.case === "sandbox" && event.value.spec?.sandboxId === halfWay) process.stdout.write("ready\n");
}
