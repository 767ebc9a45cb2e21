import { readFile } from "node:fs/promises";

import { expect, test } from "vitest";

import type { AnyOptions } from "@roost/kit";

import { allTables, tablesOf } from "./platform/tables.ts";
import { clientOptions } from "./settings.ts";
import { TestCli } from "./testing/test-cli.ts";

const page = await readFile(new URL("../../../docs/cli.md", import.meta.url), "utf8");
const settingsPage = await readFile(new URL("../../../docs/settings.md", import.meta.url), "utf8");

test("docs/cli.md names every command and every setting of the client", async () => {
  await using cli = await TestCli.start();
  const help = (await cli.run(["--help"])).stdout.toString();
  const names = [...help.matchAll(/^ {2}([a-z][a-z0-9-]*)(?:\|[a-z]+)? [[<]/gm)].map((match) => match[1] ?? "");
  expect(names).toContain("up");
  for (const name of names) expect(page, name).toContain(`\`${name}\``);
  for (const key of clientOptions.keys) expect(page).toContain(clientOptions.environmentName(key));
});

test.each(Object.entries(tablesOf))("help of %s has every setting of it, but no flag for a secret", async (command, tables) => {
  await using cli = await TestCli.start();
  const help = (await cli.run([command, "--help"])).stdout.toString();
  for (const table of tables) {
    for (const key of table.keys) {
      if (key === "register") expect(help).toContain("--register <token>"); // works once, for an hour
      else if (table.table[key]?.secret === true) expect(help).not.toContain(`${table.flagName(key)} `);
      else expect(help).toContain(table.flagName(key));
    }
  }
});

/** Rows of docs/settings.md. A setting that several tables have has a row in each: it means something else there. */
function settingRows(table: AnyOptions): string[] {
  return table.keys.map((key) => {
    const spec = table.table[key];
    const parsed = spec?.schema.safeParse(undefined);
    const value = parsed?.success === true ? parsed.data : undefined;
    const shown = value === undefined ? "" : typeof value === "string" ? value : textOf(value);
    return `| \`${table.environmentName(key)}\` | ${shown === "" ? "" : `\`${shown}\``} | ${spec?.desc ?? ""} |`;
  });
}

function textOf(value: unknown): string {
  if (value instanceof Map) return [...value].map(([name, count]) => `${name}=${count}`).join(",");
  if (value instanceof Set) return [...value].join(",");
  return Array.isArray(value) ? value.join(",") : JSON.stringify(value);
}

test("docs/settings.md has a row for every setting, with its default, and none that does not exist", () => {
  const rows = [clientOptions, ...allTables].flatMap(settingRows);
  const present = settingsPage.split("\n").filter((line) => line.startsWith("| `ROOST_"));
  expect(present.toSorted()).toEqual(rows.toSorted());
});
