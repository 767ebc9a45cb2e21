import { readdir, readFile, writeFile } from "node:fs/promises";

import { e2bPage, withRouteTables } from "./e2b/route-page.ts";
import { buildOpenApi } from "./http/openapi.ts";

/**
 * Writes the generated files: migrations as a module (so that a bundle carries them), `openapi/roost.json`, and the
 * tables of routes in `docs/e2b.md`.
 * A unit test compares them with what this makes.
 */

const migrationsFolder = new URL("./db/migrations/", import.meta.url);
export const migrationsModule = new URL("./db/migrations.generated.ts", import.meta.url);
export const openApiFile = new URL("../../../openapi/roost.json", import.meta.url);

export async function makeMigrationsModule(): Promise<string> {
  const names = (await readdir(migrationsFolder)).filter((name) => name.endsWith(".sql")).sort();
  const entries = await Promise.all(
    names.map(async (fileName) => {
      const [, number = "", name = ""] = /^(\d{4})-([a-z0-9-]+)\.sql$/.exec(fileName) ?? [];
      if (number === "") throw new Error(`migrations are named like 0001-what-it-does.sql, not ${fileName}`);
      const text = await readFile(new URL(fileName, migrationsFolder), "utf8");
      if (/[`\\]|\$\{/.test(text)) throw new Error(`${fileName}: no backquotes, backslashes or \${ in migrations`);
      return `  {\n    number: ${Number(number)},\n    name: "${name}",\n    sql: \`${text}\`,\n  },\n`;
    }),
  );
  return `// Generated from migrations/*.sql by \`npm run generate\`. Do not edit.
export const migrations: readonly { readonly number: number; readonly name: string; readonly sql: string }[] = [
${entries.join("")}];
`;
}

export function makeOpenApi(): string {
  return `${JSON.stringify(buildOpenApi(), null, 2)}\n`;
}

if (process.argv[1] !== undefined && import.meta.url === new URL(`file://${process.argv[1]}`).href) {
  await writeFile(migrationsModule, await makeMigrationsModule());
  await writeFile(openApiFile, makeOpenApi());
  await writeFile(e2bPage, withRouteTables(await readFile(e2bPage, "utf8")));
}
