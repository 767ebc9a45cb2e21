import type { VmSpec } from "../driver.ts";
import { QemuDriver } from "../qemu/qemu-driver.ts";

/**
 * Support for tests: a process that starts a VM as a host agent does, prints its record, and waits to be killed.
 * Arguments: memory folder, spec as JSON.
 */
const [, , memoryFolder = "", spec = ""] = process.argv;
const vm = await new QemuDriver({ memoryFolder }).start(JSON.parse(spec) as VmSpec);
process.stdout.write(`${JSON.stringify(vm.record)}\n`);
setInterval(() => undefined, 1_000_000);
