// `npm run check`: types, lint, format, tidy, drift of generated files, unit tests. Under a minute; needs no root.
import process from "node:process";

import { checkSteps, runStep } from "./steps.mjs";

let failed = 0;
for (const step of [...checkSteps, { name: "unit tests (vitest)", command: ["node_modules/.bin/vitest", "run", "--project", "unit"] }]) {
  if (!(await runStep(step))) failed += 1;
}
process.exitCode = failed === 0 ? 0 : 1;
