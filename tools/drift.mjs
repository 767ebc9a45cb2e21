// Generated files must be what their sources generate: makes them anew in a copy's place and compares.
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import process from "node:process";

const generated = [{ folder: "packages/contract/gen", source: "packages/contract" }];

/** @param {string} folder */
const filesOf = (folder) =>
  readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((path) => statSync(path).isFile())
    .sort();

let drifted = 0;
for (const { folder, source } of generated) {
  const scratch = mkdtempSync(join(tmpdir(), "roost-drift-"));
  try {
    cpSync(join(source, "proto"), join(scratch, "proto"), { recursive: true });
    for (const file of ["buf.yaml", "buf.gen.yaml"]) cpSync(join(source, file), join(scratch, file));
    execFileSync(join(process.cwd(), "node_modules/.bin/buf"), ["generate"], {
      cwd: scratch,
      stdio: "pipe",
      env: { ...process.env, PATH: `${process.cwd()}/node_modules/.bin:${process.env.PATH}` },
    });
    const fresh = filesOf(join(scratch, "gen")).map((path) => relative(join(scratch, "gen"), path));
    const committed = filesOf(folder).map((path) => relative(folder, path));
    for (const name of new Set([...fresh, ...committed])) {
      const same =
        fresh.includes(name) &&
        committed.includes(name) &&
        readFileSync(join(scratch, "gen", name)).equals(readFileSync(join(folder, name)));
      if (!same) {
        drifted += 1;
        process.stdout.write(`${join(folder, name)} is not what ${source} generates: run \`npm run generate\`\n`);
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
process.exitCode = drifted === 0 ? 0 : 1;
