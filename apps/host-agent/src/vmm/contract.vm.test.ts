import { describeVmmDriver } from "./testing/contract-suite.ts";
import { createQemuHarness } from "./testing/qemu-harness.ts";
import { describeOnGuests } from "./testing/test-guest.ts";

describeOnGuests("on real guests", (guest) => {
  describeVmmDriver("qemu", () => createQemuHarness(guest), 60_000);
});
