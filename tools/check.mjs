// `npm run check`: types, lint, format, tidy, drift of generated files, unit tests. Under a minute; needs no root.
import process from "node:process";

import { checkSteps, runStep } from "./steps.mjs";

let failed = 0;
const inTurn = async (/** @type {{ name: string, command: string[] }[]} */ steps) => {
  for (const step of steps) if (!(await runStep(step))) failed += 1;
};

// Types first: what does not compile is not worth the rest. The unit tests mostly wait, so that the other checks fit beside them.
const [types, ...others] = checkSteps;
await inTurn(types === undefined ? [] : [types]);
await Promise.all([
  inTurn(others),
  inTurn([{ name: "unit tests (vitest)", command: ["node_modules/.bin/vitest", "run", "--project", "unit"] }]),
]);
process.exitCode = failed === 0 ? 0 : 1;
