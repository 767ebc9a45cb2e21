/**
 * How many sandboxes may boot at the same time. A boot keeps a CPU busy for seconds: when dozens share two cores all of them are late, and the
 * last ones miss their deadline; in turn, the first ones are ready soon. With hardware virtualization much of a boot is waiting.
 */
export function startsAtOnce(accelerator: "kvm" | "tcg", cpuCount: number): number {
  return Math.max(2, cpuCount * (accelerator === "kvm" ? 4 : 2));
}
