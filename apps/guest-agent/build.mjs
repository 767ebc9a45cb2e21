/**
 * Builds what runs in the guest into `dist/agent/`: the bundle, the launcher, and native modules beside them.
 * See README.md for the exact shape. `--launcher` builds only the launcher (`dist/native/launcher`), for tests.
 */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const here = import.meta.dirname;
const dist = join(here, "dist");
const launcher = join(dist, "native/launcher");

function buildLauncher() {
  const source = join(here, "native/launcher.c");
  const built = statSync(launcher, { throwIfNoEntry: false });
  if (built !== undefined && built.mtimeMs > statSync(source).mtimeMs) return;
  mkdirSync(dirname(launcher), { recursive: true });
  const staging = `${launcher}.${process.pid}`;
  // Static: it runs on root file systems without a libc, or with another one. No build id: same input, same bytes.
  const flags = ["-Os", "-static", "-s", "-std=gnu11", "-Wall", "-Wextra", "-Wno-clobbered", "-Werror", "-Wl,--build-id=none"];
  execFileSync("gcc", [...flags, "-o", staging, source], { stdio: "inherit" });
  renameSync(staging, launcher);
}

/** Into a folder of its own, which then takes the place of the old one: nobody copies half an agent. */
async function buildAgent() {
  const staging = join(dist, `agent.${process.pid}`);
  try {
    await bundle(join(staging, "agent.mjs"));
    cpSync(launcher, join(staging, "launcher"));
    copyNativeModules(join(staging, "node_modules"));
    rmSync(join(dist, "agent"), { recursive: true, force: true });
    renameSync(staging, join(dist, "agent"));
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** zod brings its messages in some fifty languages, a third of the bundle, which the guest would parse at every boot. */
const onlyEnglish = {
  name: "only-english",
  setup(build) {
    build.onLoad({ filter: /[/\\]zod[/\\]v4[/\\]locales[/\\]index\.js$/ }, () => ({
      contents: 'export { default as en } from "./en.js";',
    }));
  },
};

async function bundle(outfile) {
  const { build } = await import("esbuild");
  await build({
    entryPoints: [join(here, "src/main.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    conditions: ["@roost/source"],
    // Names stay, so that stacks on the console can be read. Not by keepNames: it adds a call for every closure made.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: "none",
    external: ["koffi"],
    plugins: [onlyEnglish],
    logLevel: "warning",
    // pino is CommonJS and requires Node's own modules.
    banner: { js: 'import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);' },
  });
}

/** koffi finds its native half by itself, but only as packages beside the bundle. */
function copyNativeModules(modules) {
  const require = createRequire(import.meta.url);
  const koffi = dirname(require.resolve("koffi"));
  const isScript = (path) => statSync(path).isDirectory() || /\.c?js$/.test(path);
  for (const name of ["package.json", "LICENSE.txt", "index.js", "index.cjs", "src/koffi"]) {
    cpSync(join(koffi, name), join(modules, "koffi", name), { recursive: true, filter: name === "src/koffi" ? isScript : undefined });
  }
  const native = dirname(require.resolve("@koromix/koffi-linux-x64"));
  for (const name of ["package.json", "index.js", "linux_x64/koffi.node"]) {
    cpSync(join(native, name), join(modules, "@koromix/koffi-linux-x64", name), { recursive: true });
  }
}

buildLauncher();
if (!process.argv.includes("--launcher")) await buildAgent();
