import { assert } from "@roost/kit";
import { z } from "zod";

import { streamIntoTop } from "./block-jobs.ts";
import { agentNode, baseNode, layerNode, layerNodeOptions, layerOfNode } from "./block-nodes.ts";
import { QmpError, type QmpClient } from "./qmp.ts";

interface NodeStats {
  readonly "node-name"?: string | undefined;
  readonly backing?: NodeStats | undefined;
}
const nodeStatsSchema: z.ZodType<NodeStats> = z.object({
  "node-name": z.string().max(64).optional(),
  get backing() {
    return nodeStatsSchema.optional();
  },
});

/**
 * File names of the root disk's layers as the VMM has them open, oldest first. From the statistics, because only they tell a chain by the names of its
 * nodes: a file name is shown as JSON with all that is below it, and cut off when that gets long.
 */
export async function readLayers(qmp: QmpClient): Promise<string[]> {
  const disks = z
    .array(nodeStatsSchema)
    .max(16)
    .parse(await qmp.execute("query-blockstats"));
  const layers: string[] = [];
  for (let node = disks.find((disk) => disk["node-name"] !== agentNode); node !== undefined; node = node.backing) {
    const layer = layerOfNode(node["node-name"] ?? "");
    if (layer !== undefined) layers.unshift(layer);
  }
  return layers;
}

/** Puts an empty layer on top of the chain: writes go to it from now on, and `top`, which was the top, is closed for writing. */
export async function pushLayer(qmp: QmpClient, top: string, layer: string): Promise<void> {
  const overlay = layerNode(layer);
  // Sent together: a guest may be waiting. Without the first the second is refused
  const steps = await Promise.allSettled([
    qmp.execute("blockdev-add", layerNodeOptions(layer, { below: null, isTop: true })),
    qmp.execute("blockdev-snapshot", { node: layerNode(top), overlay }),
  ]);
  const failed = steps.find((step) => step.status === "rejected");
  if (failed === undefined) return;
  if (steps[0].status === "fulfilled") await forget(qmp, overlay);
  throw failed.reason;
}

/** Copies all that lies between the top and the base image into the top. */
export async function flattenLayers(qmp: QmpClient, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const layers = await readLayers(qmp);
  const top = layers.pop();
  assert(top !== undefined, "only a VM with disks has layers");
  if (layers.length === 0) return;
  await streamIntoTop(qmp, { top: layerNode(top), base: baseNode, ...(signal === undefined ? {} : { signal }) });
  for (const layer of layers.toReversed()) await forget(qmp, layerNode(layer));
}

/** Closes a node that nothing uses any more. One that is used, or gone, is left: the next VM of this disk does not have it. */
async function forget(qmp: QmpClient, node: string): Promise<void> {
  await qmp.execute("blockdev-del", { "node-name": node }).catch((error: unknown) => {
    if (!(error instanceof QmpError)) throw error;
  });
}
