import { expect, test } from "vitest";

import { isLayerName, layerNode, layerOfNode } from "./block-nodes.ts";

test("a layer's node leads back to its file", () => {
  for (const layer of ["a.qcow2", "l0123456789abcdef.qcow2", `${"x".repeat(29)}.qcow2`]) {
    expect(layerNode(layer).length).toBeLessThanOrEqual(31);
    expect(layerOfNode(layerNode(layer))).toBe(layer);
  }
  for (const node of ["base", "agent", "l-", "l-../../etc", "l-a b", `l-${"x".repeat(30)}`, "#block123"])
    expect(layerOfNode(node), node).toBeUndefined();
});

test("what could lead out of the folder, or is too long for QEMU, is no layer", () => {
  for (const name of [
    "",
    ".qcow2",
    "../a.qcow2",
    "a/b.qcow2",
    "a.raw",
    "a.qcow2.new",
    "A.qcow2",
    "-a.qcow2",
    `${"x".repeat(30)}.qcow2`,
    "a\n.qcow2",
  ]) {
    expect(isLayerName(name), name).toBe(false);
  }
});
