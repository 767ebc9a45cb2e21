import { access } from "node:fs/promises";

import type { Manifest } from "../memory/manifest.ts";
import type { SandboxContext } from "./context.ts";

/** What of a memory image does not fit this host. */
export interface Mismatch {
  readonly what: "vmm" | "vmmVersion" | "accelerator" | "machine" | "cpu" | "agent disk" | "kernel";
  /** What the image was made with, and what this host has */
  readonly image: string;
  readonly host: string;
}

/**
 * Why the memory of this generation cannot go on here; undefined when it can. Device state and memory are only as good as the machine they were
 * taken on is the same, so every field of the fingerprint counts. The agent disk must be the very file that the guest has mounted.
 */
export async function whyNotRestorable(
  manifest: Manifest,
  context: Pick<SandboxContext, "driver" | "accelerator">,
): Promise<Mismatch | undefined> {
  const present = await context.driver.fingerprint(context.accelerator);
  const baked = manifest.vm.fingerprint;
  for (const what of ["vmm", "vmmVersion", "accelerator", "machine", "cpu"] as const) {
    if (baked[what] !== present[what]) return { what, image: baked[what], host: present[what] };
  }
  const { path } = manifest.vm.agentDisk;
  const isPresent = await access(path).then(
    () => true,
    () => false,
  );
  return isPresent ? undefined : { what: "agent disk", image: path, host: "nothing there" };
}

/** The same for templates, which are made anew rather than kept: those follow this host's images too. */
export async function whyStale(
  manifest: Manifest,
  context: Pick<SandboxContext, "driver" | "accelerator" | "images">,
): Promise<Mismatch | undefined> {
  const present = await context.images.boot();
  const { kernel, agentDisk } = manifest.vm;
  if (kernel.digest !== present.kernel.digest) return { what: "kernel", image: kernel.version, host: present.kernel.version };
  if (agentDisk.digest !== present.agentDisk.digest) return { what: "agent disk", image: agentDisk.digest, host: present.agentDisk.digest };
  return whyNotRestorable(manifest, context);
}

/** For users, with what to do. */
export function describeMismatch(mismatch: Mismatch): string {
  return (
    `the memory image does not fit this host: its ${mismatch.what} is '${mismatch.image}' and this host has '${mismatch.host}'. ` +
    "Resume it with memory=false to boot it from its disk: files are kept, processes are not"
  );
}
