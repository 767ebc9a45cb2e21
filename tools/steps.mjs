// Runs named steps one after the other and says how each went. Plain JavaScript: it runs before anything is built.
import { spawn } from "node:child_process";
import { performance } from "node:perf_hooks";
import process from "node:process";

/**
 * Runs a command; its output is shown only when it fails (or always with `show`).
 * @param {{ name: string, command: string[], show?: boolean, env?: Record<string, string> }} step
 * @returns {Promise<boolean>} whether it exited 0
 */
export async function runStep(step) {
  const start = performance.now();
  const [program = "", ...args] = step.command;
  const child = spawn(program, args, { stdio: step.show ? "inherit" : ["ignore", "pipe", "pipe"], env: { ...process.env, ...step.env } });
  /** @type {Buffer[]} */
  const output = [];
  child.stdout?.on("data", (chunk) => output.push(chunk));
  child.stderr?.on("data", (chunk) => output.push(chunk));
  const exitCode = await new Promise((resolve) => {
    child.on("error", (error) => {
      output.push(Buffer.from(String(error)));
      resolve(-1);
    });
    child.on("close", resolve);
  });
  const seconds = ((performance.now() - start) / 1000).toFixed(1).padStart(6);
  const passed = exitCode === 0;
  process.stdout.write(`${passed ? "ok  " : "FAIL"} ${seconds} s  ${step.name}\n`);
  if (!passed && !step.show) process.stdout.write(`${Buffer.concat(output).toString()}\n`);
  return passed;
}

const bin = (/** @type {string} */ name) => `node_modules/.bin/${name}`;

/** What `npm run check` does, in the order in which mistakes are cheapest to read. */
export const checkSteps = [
  { name: "types (tsc -b)", command: [bin("tsc"), "-b"] },
  { name: "lint (oxlint)", command: [bin("oxlint"), "--deny-warnings"] },
  { name: "format (oxfmt)", command: [bin("oxfmt"), "--check"] },
  { name: "tidy", command: ["node", "tools/tidy.mjs"] },
  { name: "drift of generated code", command: ["node", "tools/drift.mjs"] },
];
