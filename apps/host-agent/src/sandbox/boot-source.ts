import { guestMacAddress } from "../network/network.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxSpec } from "./sandbox-record.ts";
import type { StartDisk, StartSource } from "./start-vm.ts";

/** A boot from this disk with the images of today. */
export async function bootSource(
  context: Pick<SandboxContext, "images" | "driver" | "accelerator">,
  sizes: Pick<SandboxSpec, "vcpus" | "memoryMib">,
  disk: StartDisk,
): Promise<StartSource> {
  const images = await context.images.boot();
  return {
    kind: "boot",
    disk,
    images,
    machine: {
      vcpus: sizes.vcpus,
      memoryMib: sizes.memoryMib,
      fingerprint: await context.driver.fingerprint(context.accelerator),
      kernel: { version: images.kernel.version, digest: images.kernel.digest },
      agentDisk: { path: images.agentDisk.path, digest: images.agentDisk.digest },
      macAddress: guestMacAddress,
    },
  };
}
