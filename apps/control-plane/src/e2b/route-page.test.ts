import { readFile } from "node:fs/promises";

import { expect, test } from "vitest";

import { e2bPage, withRouteTables } from "./route-page.ts";
import { e2bRoutes } from "./route-table.ts";

test("docs/e2b.md has the tables that the routes make (else: npm run generate -w @roost/control-plane)", async () => {
  const page = await readFile(e2bPage, "utf8");
  expect(page).toBe(withRouteTables(page));
  for (const { method, path } of Object.values(e2bRoutes)) expect(page).toContain(`| \`${method} ${path}\` |`);
});

test("what people wrote around the tables stays; without the markers there is nothing to write to", async () => {
  const page = await readFile(e2bPage, "utf8");
  const changed = page.replace(/\| `GET \/teams` .*\n/, "");
  expect(changed).not.toBe(page);
  expect(withRouteTables(`before\n${changed}after\n`)).toBe(`before\n${page}after\n`);
  expect(() => withRouteTables("# A page")).toThrow("must have");
});
