// Our own rules, those no linter knows. Each prints file, line and what to do instead.
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import process from "node:process";

/** A file longer than this in lines wants to be two modules. */
const linesMax = 500;
/** Files that may read the environment: one per process, plus tests and tools. */
const readsEnvironment = [
  /(^|\/)(main|options|environment)\.ts$/,
  /\.test\.ts$/,
  /^tools\//,
  /^tests\//,
  /(^|\/)testing\//,
  /(^|\/)test-[a-z-]+\.ts$/,
  /vitest\.config\.ts$/,
];

const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], { encoding: "utf8" })
  .split("\n")
  .filter(
    (path) =>
      /\.(ts|mjs|js|sh|md|json|sql|proto|c|py)$/.test(path) &&
      !/(^|\/)(gen|dist|node_modules)\//.test(path) &&
      path !== "package-lock.json",
  );

/** @type {string[]} */
const findings = [];
for (const path of files) {
  let text;
  try {
    if (!statSync(path).isFile()) continue;
    text = readFileSync(path, "utf8");
  } catch {
    continue; // listed by git, already deleted in the work tree
  }
  const lines = text.split("\n");
  const isCode = /\.(ts|mjs|js)$/.test(path);
  if (isCode && !/\.(test|generated)\.ts$/.test(path) && lines.length > linesMax)
    findings.push(`${path}: ${lines.length} lines; more than ${linesMax} want to be two modules`);
  lines.forEach((line, index) => {
    const at = `${path}:${index + 1}`;
    if (path !== "tools/tidy.mjs") {
      if (/\b(FIXME|XXX|HACK)\b/.test(line)) findings.push(`${at}: left-over marker; do it or open an issue`);
      if (/\bTODO\b/.test(line)) findings.push(`${at}: TODO; do it or open an issue`);
      if (/\.(only|todo)\(/.test(line) && path.endsWith(".test.ts")) findings.push(`${at}: a focused or empty test hides others`);
      if (isCode && /process\.env\b/.test(line) && !readsEnvironment.some((pattern) => pattern.test(path)))
        findings.push(`${at}: process.env outside the process's options; pass the value down`);
      if (/\/work\/(main|shared)|\.\.\/shared\//.test(line)) findings.push(`${at}: names a path that a clone does not have`);
    }
    if (isCode && /from "\.\/index\.ts"|from "\.\.\/index\.ts"/.test(line))
      findings.push(`${at}: do not import from a barrel; import the module itself`);
  });
}

// npm forgets packages for other platforms when its registry does not have them, and `npm ci` then refuses the lock file.
/** @type {Record<string, { optionalDependencies?: Record<string, string> }>} */
const locked = JSON.parse(readFileSync("package-lock.json", "utf8")).packages;
for (const [path, { optionalDependencies = {} }] of Object.entries(locked)) {
  for (const name of Object.keys(optionalDependencies)) {
    if (locked[`node_modules/${name}`] === undefined && locked[`${path}/node_modules/${name}`] === undefined)
      findings.push(`package-lock.json: ${name}, which ${path} names, is missing; npm ci will not accept that`);
  }
}
for (const finding of findings) process.stdout.write(`${finding}\n`);
process.exitCode = findings.length === 0 ? 0 : 1;
