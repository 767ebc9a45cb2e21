import { ImageBuildError } from "../image-build-error.ts";

/** When the initramfs loads a module: always, or on machines whose virtio devices are on that bus. */
export type ModuleBus = "any" | "mmio" | "pci";

export interface WantedModule {
  readonly name: string;
  readonly bus: ModuleBus;
}

export interface OrderedModule {
  /** Path below the module folder, as modules.dep names it. */
  readonly path: string;
  readonly bus: ModuleBus;
}

/** `virtio-rng` and `virtio_rng` are one module to the kernel. */
function canonicalName(path: string): string {
  return (path.split("/").at(-1) ?? "").replace(/\.ko(\.(xz|zst|gz))?$/, "").replaceAll("-", "_");
}

/**
 * The modules to load, each after those it needs. A wanted module that the kernel has built in is left out.
 * `modulesDep` and `modulesBuiltin` are the files of that name in the kernel's module folder.
 */
export function moduleOrder(wanted: readonly WantedModule[], modulesDep: string, modulesBuiltin: string): readonly OrderedModule[] {
  const dependencies = new Map<string, { path: string; needs: readonly string[] }>();
  for (const line of modulesDep.split("\n")) {
    const [path, needs] = line.split(":", 2);
    if (path === undefined || needs === undefined) continue;
    dependencies.set(canonicalName(path), { path, needs: needs.trim().split(/\s+/).filter(Boolean) });
  }
  const builtin = new Set(modulesBuiltin.split("\n").map(canonicalName));
  const ordered = new Map<string, OrderedModule>();

  const add = (name: string, bus: ModuleBus) => {
    const module = dependencies.get(name);
    if (module === undefined) {
      if (builtin.has(name)) return;
      throw new ImageBuildError(`the kernel has no module ${name}`);
    }
    // modules.dep lists everything a module needs, in the order in which it was found: the last one is needed by those before it.
    for (const needed of [...module.needs].reverse()) add(canonicalName(needed), bus);
    const earlier = ordered.get(module.path);
    if (earlier === undefined) ordered.set(module.path, { path: module.path, bus });
    else if (earlier.bus !== bus) ordered.set(module.path, { path: module.path, bus: "any" });
  };
  for (const { name, bus } of wanted) add(name.replaceAll("-", "_"), bus);
  return [...ordered.values()];
}
