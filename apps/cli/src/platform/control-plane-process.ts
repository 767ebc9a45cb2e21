import { createControlPlane, type ControlPlaneOptions } from "@roost/control-plane";
import type { Logger } from "@roost/kit";

import { ensureApiKey } from "./local-api-key.ts";
import type { Served } from "./serve.ts";

/** The control plane as a process of its own: its hosts are other machines, which register. Any number of these may have one database. */
export async function startControlPlaneProcess(options: ControlPlaneOptions, log: Logger): Promise<Served & { readonly url: string }> {
  const controlPlane = await createControlPlane(options, { hosts: [], log });
  try {
    await ensureApiKey(options.dir, controlPlane.apiKeys);
    const { url, tlsUrl } = await controlPlane.listen();
    return {
      url,
      tlsUrl,
      drain: () => controlPlane.drain(),
      pauseSandboxes: async () => Promise.reject(new Error("sandboxes belong to the hosts here: `roost host drain` pauses those of one")),
      close: () => controlPlane.close(),
    };
  } catch (error) {
    await controlPlane.close().catch((failure: unknown) => log.warn({ err: failure }, "a failed start was not undone completely"));
    throw error;
  }
}
