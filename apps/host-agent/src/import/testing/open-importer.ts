import { silentLogger } from "@roost/kit";

import { Importer, type ImporterOptions } from "../importer.ts";

/** Unprivileged, and nobody's */
export const importUid = 1_879_113_727;

/** An importer for tests, which has recovered. Nothing asks whether there is room: what is full shows when it is written to. */
export async function openImporter(stateDir: string, options: Partial<ImporterOptions> = {}): Promise<Importer> {
  const importer = new Importer({
    stateDir,
    uid: importUid,
    cacheMib: 1_024,
    importMaxMib: 512,
    importedMib: 1_024,
    registries: null,
    insecureRegistries: new Set(),
    checkRoom: async () => undefined,
    log: silentLogger,
    ...options,
  });
  await importer.recover();
  return importer;
}
