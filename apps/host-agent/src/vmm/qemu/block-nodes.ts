import { assert } from "@roost/kit";

import type { VmDisks } from "../driver.ts";
import { insidePaths } from "./layout.ts";

/**
 * QEMU's block nodes of a VM's disks. Each says format, file and what lies below it, so that nothing is ever taken from a header that a guest
 * may have written.
 *
 *     layer n (top) → … → layer 0 → base (raw)        agent (raw)
 */
type Json = Readonly<Record<string, unknown>>;

export const baseNode = "base";
export const agentNode = "agent";
/** Files that the VMM gets open, as descriptors: those that are never written and never change. */
export const baseDescriptor = 3;
export const agentDescriptor = 4;

/** Every layer's node is named by its file, so that the names of nodes tell the files; QEMU takes names of 31 bytes. */
const layerNodePrefix = "l-";

/** Layer files in the folder that all of them share: plain names, so that none leads anywhere else. */
export function isLayerName(name: string): boolean {
  return /^[a-z0-9][a-z0-9-]{0,28}\.qcow2$/.test(name);
}

export function layerNode(layer: string): string {
  assert(isLayerName(layer), "a layer is named by at most 29 lower-case letters, digits and hyphens");
  return layerNodePrefix + layer.slice(0, -".qcow2".length);
}

/** The file of a node; undefined: it is no layer's. */
export function layerOfNode(node: string): string | undefined {
  const layer = `${node.slice(layerNodePrefix.length)}.qcow2`;
  return node.startsWith(layerNodePrefix) && isLayerName(layer) ? layer : undefined;
}

/** All nodes of the disks, each after those it refers to. */
export function diskNodes(disks: VmDisks): Json[] {
  const { layers } = disks.root;
  const nodes: Json[] = [rawNode(baseNode, baseDescriptor)];
  layers.forEach((layer, index) => {
    const below = index === 0 ? baseNode : layerNode(layers[index - 1] ?? "");
    nodes.push(layerNodeOptions(layer, { below, isTop: index === layers.length - 1 }));
  });
  return [...nodes, rawNode(agentNode, agentDescriptor)];
}

/** A node for `blockdev-add`; `below: null` is a layer that gets something below it by `blockdev-snapshot`. */
export function layerNodeOptions(layer: string, options: { readonly below: string | null; readonly isTop: boolean }): Json {
  const readOnly = options.isTop ? {} : { "read-only": true };
  return {
    driver: "qcow2",
    "node-name": layerNode(layer),
    discard: "unmap",
    ...(options.isTop ? { "detect-zeroes": "unmap" } : {}),
    ...readOnly,
    file: { driver: "file", filename: `${insidePaths.disk}/${layer}`, discard: "unmap", ...readOnly },
    backing: options.below,
  };
}

/** `/dev/fdset/N` is QEMU's name for the descriptors that `-add-fd` gave it. */
function rawNode(name: string, descriptor: number): Json {
  return {
    driver: "raw",
    "node-name": name,
    "read-only": true,
    file: { driver: "file", filename: `/dev/fdset/${descriptor}`, "read-only": true },
  };
}
