// What `npm test` runs once the machine is ready: the checks, the images, then every kind of test.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import process from "node:process";

import { checkSteps, runStep } from "./steps.mjs";

let passed = 0;
let failed = 0;
/** @type {string[]} */
const failures = [];
for (const step of checkSteps) await runAndCount(step);
await runAndCount({ name: "images", command: ["node", "images/dist/main.js"], show: true });

// Unit tests and virtual machines keep two cores busy alone. Those with real networks mostly wait, so the ones with PostgreSQL run beside them.
for (const projects of [["unit"], ["linux", "pg"], ["vm"]]) await Promise.all(projects.map(runProject));

// Once more at the end, where whoever has only the end of the output finds it
for (const failure of failures) process.stdout.write(`failed: ${failure}\n`);
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;

/** @param {Parameters<typeof runStep>[0]} step */
async function runAndCount(step) {
  if (await runStep(step)) passed += 1;
  else fail(step.name);
}

/** @param {string} what */
function fail(what) {
  failed += 1;
  failures.push(what);
}

/**
 * Runs the tests of one kind and counts them. Of several kinds at once only the first shows what it is at.
 * @param {string} project
 * @param {number} index
 */
async function runProject(project, index) {
  const scratch = mkdtempSync(join(tmpdir(), "roost-test-"));
  const resultFile = join(scratch, "result.json");
  try {
    const exited = await runStep({
      name: `${project} tests`,
      command: [
        "node_modules/.bin/vitest",
        "run",
        "--project",
        project,
        "--passWithNoTests",
        "--reporter=default",
        "--reporter=json",
        `--outputFile.json=${resultFile}`,
        ...process.argv.slice(2),
      ],
      show: index === 0,
    });
    const result = JSON.parse(readFileSync(resultFile, "utf8"));
    passed += result.numPassedTests;
    for (const file of result.testResults) {
      for (const test of file.assertionResults.filter(({ status }) => status === "failed")) {
        fail(`${relative(process.cwd(), file.name)}: ${test.fullName}: ${firstLine(test.failureMessages[0])}`);
      }
    }
    // A file whose set-up, clean-up or loading failed fails although none of its tests did; so does an error outside any file.
    const brokenFiles = result.testResults.filter(
      (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
    );
    for (const file of brokenFiles) fail(`${relative(process.cwd(), file.name)}: ${firstLine(file.message)}`);
    if (!exited && result.numFailedTests + brokenFiles.length === 0) fail(`${project} tests: an error outside of the tests, told above`);
    for (const file of result.testResults) {
      for (const test of file.assertionResults) {
        if (["skipped", "pending", "todo"].includes(test.status)) {
          const note = brokenFiles.includes(file) ? "its file's set-up failed" : (test.meta?.skipReason ?? "its file or title says why");
          process.stdout.write(`skipped: ${relative(process.cwd(), file.name)}: ${test.fullName} (${note})\n`);
        }
      }
    }
  } catch (error) {
    fail(`${project} tests left no result: ${firstLine(String(error))}`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** @param {string | undefined} message */
function firstLine(message) {
  return (message ?? "").trim().split("\n", 1)[0].slice(0, 300);
}
