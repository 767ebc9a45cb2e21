import { join } from "node:path";

/** Root of this package: `src/` and `dist/` lie side by side in it, so this holds for source and compiled code. */
const packageFolder = join(import.meta.dirname, "..");

/** A file or folder of the recipes, such as `guest/supervisor` or `src/kernel`. */
export function recipePath(...parts: readonly string[]): string {
  return join(packageFolder, ...parts);
}

/** Where `npm run build -w @roost/guest-agent` leaves what the agent disk carries. */
export const guestAgentFolder = join(packageFolder, "../apps/guest-agent/dist/agent");
/** The guest agent's package, for its version. */
export const guestAgentPackageFile = join(packageFolder, "../apps/guest-agent/package.json");
