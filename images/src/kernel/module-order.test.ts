import { expect, test } from "vitest";

import { moduleOrder } from "./module-order.ts";

const modulesDep = `kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_modern_dev.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_modern_dev.ko:
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
`;
const builtin = "kernel/fs/ext4/ext4.ko\n";

test("each module comes after those it needs, once", () => {
  const order = moduleOrder(
    [
      { name: "virtio_mmio", bus: "mmio" },
      { name: "virtio_pci", bus: "pci" },
      { name: "virtio_rng", bus: "any" },
    ],
    modulesDep,
    builtin,
  );
  expect(order.map(({ path, bus }) => `${path.split("/").at(-1)} ${bus}`)).toEqual([
    "virtio_ring.ko any",
    "virtio.ko any",
    "virtio_mmio.ko mmio",
    "virtio_pci_modern_dev.ko pci",
    "virtio_pci.ko pci",
    "virtio-rng.ko.xz any",
  ]);
});

test("what the kernel has built in is left out", () => {
  expect(moduleOrder([{ name: "ext4", bus: "any" }], modulesDep, builtin)).toEqual([]);
});

test("what the kernel does not have is an error", () => {
  expect(() => moduleOrder([{ name: "virtio_net", bus: "any" }], modulesDep, builtin)).toThrow("no module virtio_net");
});
