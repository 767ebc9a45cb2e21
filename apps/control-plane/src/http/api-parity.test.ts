import { readFile } from "node:fs/promises";

import { endpoints, type Endpoint } from "@roost/contract";
import { expect, test } from "vitest";

const page = new URL("../../../../docs/api-parity.md", import.meta.url);
const all = Object.values(endpoints as Readonly<Record<string, Endpoint>>).map(({ method, path }) => `${method} ${path}`);

/** What the page says that Roost has: right columns of its tables. */
async function named(): Promise<string[]> {
  const rows = (await readFile(page, "utf8")).split("\n").filter((line) => line.startsWith("| "));
  const right = rows.map((row) => row.split(" | ").slice(2).join(" | "));
  return right.flatMap((text) => [...text.matchAll(/`((?:GET|POST|PUT|PATCH|DELETE) \/v1\/[^`]*)`/g)].map(([, route = ""]) => route));
}

test("the page on parity names only endpoints that there are, and all of them", async () => {
  const routes = await named();
  expect(routes.filter((route) => !all.includes(route))).toEqual([]);
  expect(all.filter((route) => !routes.includes(route))).toEqual([]);
});

test("each row says same, better or left out", async () => {
  const rows = (await readFile(page, "utf8"))
    .split("\n")
    .filter((line) => line.startsWith("| ") && !line.startsWith("| ---") && !line.startsWith("| the reference"));
  for (const row of rows) expect(row.split(" | ")[1], row).toMatch(/^(same|better|left out)$/);
  expect(rows.length).toBeGreaterThan(60);
});
