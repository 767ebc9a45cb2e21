import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import type { Build } from "@roost/contract";

import type { TestPlatform } from "./test-platform.ts";

/** Longest that a template of `images/templates` takes to be built in `ms`: hundreds of packages are installed, and an emulated guest starts what runs in it. */
export const recipeTimeoutMs = 30 * 60_000;

const recipesFolder = fileURLToPath(new URL("../../images/templates", import.meta.url));

export const recipeFolder = (name: string) => join(recipesFolder, name);

export interface RecipeOptions {
  /** Of the template; default: the recipe's */
  readonly name?: string;
  readonly memoryMb?: number;
}

/** Builds one of the repository's recipes as users do, and says what its log ended with when it fails. */
export async function buildRecipe(platform: TestPlatform, recipe: string, { name = recipe, memoryMb }: RecipeOptions = {}): Promise<Build> {
  const context = recipeFolder(recipe);
  const file = join(context, "recipe.json");
  const lines: string[] = [];
  try {
    return await platform.client.templates.build(
      { recipe: await readFile(file, "utf8"), context, file },
      {
        name,
        ...(memoryMb === undefined ? {} : { memoryMb }),
        onLog: ({ level, step, message }) => {
          lines.push(`${level} ${step ?? "-"}: ${message}`);
        },
        signal: AbortSignal.timeout(recipeTimeoutMs),
      },
    );
  } catch (error) {
    throw new Error(`the recipe ${recipe} was not built:\n${lines.slice(-30).join("\n")}`, { cause: error });
  }
}
