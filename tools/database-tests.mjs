// Which tests open a database: they run once on PGlite (project `unit`) and once on a PostgreSQL server (project `pg`).
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** All tests reach a database through this module. */
const opener = "testing/test-database.ts";

/**
 * Test files of a folder that import what opens a database, directly or through modules of its `testing` folder.
 * @param {string} folder
 * @returns {string[]}
 */
export function databaseTests(folder) {
  const importsOf = new Map(
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".test.ts") || /^testing\/[^/]+\.ts$/.test(path))
      .map((path) => [path, importedBy(folder, path)]),
  );
  const opening = new Set([opener]);
  for (let before = 0; before !== opening.size;) {
    before = opening.size;
    for (const [path, imported] of importsOf) if (imported.some((each) => opening.has(each))) opening.add(path);
  }
  return [...opening].filter((path) => /^[^.]+\.test\.ts$/.test(path)).map((path) => join(folder, path));
}

/**
 * What a module imports of ours, not only as types.
 * @param {string} folder
 * @param {string} path
 */
function importedBy(folder, path) {
  const text = readFileSync(join(folder, path), "utf8");
  return [...text.matchAll(/^import (?!type )[^;]*?"(\.[^"]+)";$/gm)].map(([, name = ""]) => join(dirname(path), name));
}
