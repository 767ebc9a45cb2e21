// `npm run images`: makes the images of this checkout, or says that they are there already.
import { parseArgs } from "node:util";

import { CommandError, OptionError } from "@roost/kit";

import { ensureImages } from "./ensure-images.ts";
import { ImageBuildError } from "./image-build-error.ts";
import { imagesFolder, imagesOptions } from "./options.ts";
import { createProgressPrinter } from "./progress-printer.ts";
import { pruneImages } from "./prune-images.ts";

const help = `npm run images [-- OPTION...]

Builds what sandboxes start with (kernel, initramfs, agent disk, base template) as far as it is not there already.

  --refresh   ask the package repositories for newer versions and build everything again
  --prune     afterwards remove older images that nothing current names
  --help      this text

Environment
  ${imagesOptions.environmentName("cacheDir")}   ${imagesOptions.table.cacheDir.desc} (default /var/cache/roost)
`;

const abort = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  // The first one stops the build and lets it clean up; a second one ends us as it always would.
  process.once(signal, () => abort.abort(new ImageBuildError(`stopped by ${signal}; what was half made is removed`)));
}

try {
  await main();
} catch (error) {
  if (!isExpected(error)) throw error;
  const reason: unknown = abort.signal.aborted ? abort.signal.reason : error;
  process.stderr.write(`images: ${reason instanceof Error ? reason.message : String(reason)}\n`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { refresh: { type: "boolean" }, prune: { type: "boolean" }, help: { type: "boolean" } } });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const cacheDir = imagesFolder(imagesOptions.read(process.env).cacheDir);
  const printer = createProgressPrinter(process.stdout);
  try {
    const images = await ensureImages({ cacheDir, refresh: values.refresh === true, onProgress: printer.onProgress, signal: abort.signal });
    printer.finish();
    process.stdout.write(`images ready in ${cacheDir}: kernel ${images.kernel.version}, guest agent ${images.agentDisk.agentVersion}\n`);
    if (values.prune === true) {
      const removed = await pruneImages({ cacheDir, signal: abort.signal });
      process.stdout.write(removed.length === 0 ? "nothing to prune\n" : `pruned ${removed.join(", ")}\n`);
    }
  } finally {
    printer.finish();
  }
}

/** What the operator can act on; anything else is a bug and gets its stack. */
function isExpected(error: unknown): boolean {
  if (abort.signal.aborted) return true;
  const isUsage = error instanceof TypeError && String((error as { code?: unknown }).code).startsWith("ERR_PARSE_ARGS");
  return isUsage || error instanceof ImageBuildError || error instanceof CommandError || error instanceof OptionError;
}
