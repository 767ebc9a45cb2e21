import type { Deferred } from "@roost/kit";

import type { RunningVm } from "./running-vm.ts";
import type { StopReason } from "./sandbox-record.ts";

/** What is posted to the loop of a sandbox. */
export type Message =
  | { readonly kind: "create-ended" }
  | { readonly kind: "vm-exited"; readonly running: RunningVm }
  | { readonly kind: "inactive" }
  | { readonly kind: "checkpoint-due" }
  | { readonly kind: "stop"; readonly reason: StopReason | "moved"; readonly reply: Deferred<void> }
  | { readonly kind: "request"; readonly act: () => Promise<void>; readonly reply: Deferred<void> }
  | { readonly kind: "release"; readonly reply: Deferred<void> };
