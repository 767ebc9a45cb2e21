import { describe } from "vitest";

import { describeVmmDriver } from "./testing/contract-suite.ts";
import { createQemuHarness } from "./testing/qemu-harness.ts";
import { findTestImages } from "./testing/test-guest.ts";

const images = await findTestImages();
const guest = typeof images === "string" ? { kernel: "", initramfs: "" } : { kernel: images.kernel.path, initramfs: images.initramfs.path };

describe.skipIf(typeof images === "string")(`on real guests${typeof images === "string" ? ` (${images})` : ""}`, () => {
  describeVmmDriver("qemu", () => createQemuHarness(guest), 60_000);
});
