#!/usr/bin/env node
// Starts the bundle that `npm run build` makes. Plain JavaScript, so that `npx roost` can say what is missing before anything is built.
import { existsSync } from "node:fs";
import module from "node:module";
import process from "node:process";

module.enableCompileCache?.(); // Node 22 and newer start faster the second time
const bundle = new URL("../dist/bundle/main.js", import.meta.url);
if (existsSync(bundle)) await import(bundle.href);
else {
  process.stderr.write("error: roost is not built yet\nhint:  run `npm ci && npm run build` in the checkout, or `npm run quickstart`\n");
  process.exitCode = 1;
}
