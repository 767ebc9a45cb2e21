// Evaluates code for javascript_kernel.py: one request a line on the descriptor of the first argument, one answer a line on that of the second.
// Node's own prompt does the work, so `await` works at the top, what is declared stays, and the value of the last expression is the result.
"use strict";

const domain = require("node:domain");
const fs = require("node:fs");
const net = require("node:net");
const readline = require("node:readline");
const repl = require("node:repl");
const { PassThrough } = require("node:stream");
const { inspect } = require("node:util");

const [requests, answers] = process.argv.slice(2).map(Number);

/** Ends what runs with an error; undefined when nothing runs. */
let fail;
const failOrTell = (error) => (fail === undefined ? console.error("Uncaught", error) : fail(error));

// The prompt evaluates in this domain, and reports what is thrown there
const errors = domain.create();
errors.on("error", failOrTell);
const streams = { input: new PassThrough(), output: new PassThrough().resume() };
const prompt = repl.start({ ...streams, prompt: "", domain: errors, useGlobal: true, terminal: false, breakEvalOnSigint: true });

/** What waits is broken off, and the process stays. The prompt breaks off what runs, by a handler that another one in its place would disable. */
const breakOff = () => fail?.(new Error("interrupted"));
process.on("SIGINT", breakOff);
process.on("unhandledRejection", (reason) => console.error("Uncaught (in promise)", reason));

/** The value of the code's last expression, awaited. */
async function evaluate(code) {
  try {
    return await new Promise((resolve, reject) => {
      fail = reject;
      process.removeListener("SIGINT", breakOff);
      prompt.eval(`${code}\n`, prompt.context, "code", (error, value) => {
        if (error === null) resolve(value);
        else reject(error instanceof repl.Recoverable ? error.err : error);
      });
      process.on("SIGINT", breakOff);
    });
  } finally {
    fail = undefined;
  }
}

function formsOf(value) {
  if (value === undefined) return undefined;
  const forms = { "text/plain": inspect(value) };
  if (
    typeof value === "object" &&
    value !== null &&
    (Array.isArray(value) || Object.getPrototypeOf(value)?.constructor?.name === "Object")
  ) {
    try {
      const json = JSON.parse(JSON.stringify(value));
      if (!Array.isArray(json)) forms["application/json"] = json; // clients expect an object here
    } catch {} // circular, or with numbers that JSON does not have: its text is all there is
  }
  return forms;
}

function errorOf(error) {
  if (!(error instanceof Error) && typeof error?.stack !== "string") {
    return { name: "Uncaught", value: inspect(error), traceback: [`Uncaught ${inspect(error)}`] };
  }
  const own = error.stack.split("\n").filter((line) => !/node:|javascript_child\.cjs|new Promise \(<anonymous>\)/.test(line));
  return { name: error.name ?? "Error", value: String(error.message ?? ""), traceback: own };
}

async function run({ mark, code }) {
  let answer;
  try {
    answer = { result: formsOf(await evaluate(code)) };
  } catch (error) {
    answer = { error: errorOf(error) };
  }
  // In the order of what was printed before
  await new Promise((resolve) => process.stdout.write(mark, resolve));
  await new Promise((resolve) => process.stderr.write(mark, resolve));
  fs.writeSync(answers, `${JSON.stringify(answer)}\n`);
}

let last = Promise.resolve();
// Not a file's stream: a read of a pipe that blocks a thread also blocks the process's exit
readline.createInterface({ input: new net.Socket({ fd: requests, readable: true, writable: false }) }).on("line", (line) => {
  const request = JSON.parse(line);
  last = last.then(() => {
    if (request.mark !== undefined) return run(request);
    if (request.value === null) delete process.env[request.name];
    else process.env[request.name] = request.value;
  });
});
