import { describe } from "vitest";

import { describeVmmDriver } from "./contract-suite.ts";
import { createQemuHarness } from "./qemu/qemu-harness.ts";
import { findTestImages } from "./test-guest.ts";

const images = await findTestImages();
const kernel = typeof images === "string" ? "" : images.kernel.path;

describe.skipIf(typeof images === "string")(`on real guests${typeof images === "string" ? ` (${images})` : ""}`, () => {
  describeVmmDriver("qemu", () => createQemuHarness(kernel), 60_000);
});
