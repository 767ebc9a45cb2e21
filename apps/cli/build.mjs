// Bundles the command line into a few files, so that `roost --help` need not read hundreds. The servers stay packages of
// their own: only `roost up` loads them, and the embedded database brings files that cannot be bundled.
import { rm } from "node:fs/promises";
import process from "node:process";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const folder = fileURLToPath(new URL(".", import.meta.url));
/**
 * The servers themselves, but not their option tables (`@roost/host-agent/options`): those are small, and help needs them. And what makes them
 * traced: a copy of it in the bundle would be another one than theirs.
 * @param {import("esbuild").PluginBuild} build
 */
function leaveServersOut(build) {
  build.onResolve({ filter: /^@roost\/(control-plane|host-agent|kit\/telemetry)$/ }, ({ path }) => ({ path, external: true }));
}

// tests bundle into a folder of their own
const outdir = process.argv[2] ?? "dist/bundle";
await rm(`${folder}${outdir}`, { recursive: true, force: true });
await build({
  absWorkingDir: folder,
  entryPoints: ["src/main.ts"],
  outdir,
  bundle: true,
  splitting: true,
  minify: true,
  platform: "node",
  target: "node20.19",
  format: "esm",
  sourcemap: "linked",
  sourcesContent: false,
  conditions: ["@roost/source"],
  external: ["ssh2", "@connectrpc/*", "@bufbuild/*", "pino", "bufferutil", "utf-8-validate"],
  plugins: [{ name: "servers", setup: leaveServersOut }],
  // CommonJS packages inside ES modules ask for Node's own modules by `require`
  banner: { js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);' },
  logLevel: "warning",
});
