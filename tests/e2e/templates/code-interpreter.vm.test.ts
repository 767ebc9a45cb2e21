import { poll } from "@roost/kit";
import {
  NotFoundError,
  Sandbox,
  SandboxError,
  TimeoutError,
  type Context,
  type Execution,
  type RunCodeLanguage,
  type RunCodeOpts,
} from "@e2b/code-interpreter";
import { beforeAll, describe, expect, test } from "vitest";

import { failureOf, sandboxTimeoutMs, untilTimeoutMs, useE2b } from "../../support/e2b.ts";
import { buildRecipe, recipeTimeoutMs } from "../../support/recipe.ts";

/** Longest that code in an emulated guest takes in `ms`: a kernel that is started loads hundreds of modules. */
const codeTimeoutMs = 180_000;

const platform = useE2b();
let sandbox: Sandbox;
beforeAll(async () => {
  // The SDK's own default, so that its users name no template
  await buildRecipe(platform(), "code-interpreter", { name: "code-interpreter-v1", memoryMb: 1024 });
  sandbox = await Sandbox.create({ timeoutMs: sandboxTimeoutMs, envs: { FROM: "create", ONLY: "create" } });
}, recipeTimeoutMs);

type Options = RunCodeOpts & { readonly context?: Context; readonly language?: RunCodeLanguage };
const run = async (code: string, { context: where, language, ...options }: Options = {}): Promise<Execution> => {
  const all = { timeoutMs: codeTimeoutMs, requestTimeoutMs: codeTimeoutMs, ...options };
  if (where !== undefined) return sandbox.runCode(code, { ...all, context: where });
  return sandbox.runCode(code, language === undefined ? all : { ...all, language });
};
/** Runs code that must not fail. */
async function text(code: string, options: Options = {}): Promise<string | undefined> {
  const execution = await run(code, options);
  expect(execution.error).toBeUndefined();
  return execution.text;
}
const context = async (options: { readonly language?: string; readonly cwd?: string } = {}): Promise<Context> =>
  sandbox.createCodeContext({ ...options, requestTimeoutMs: codeTimeoutMs });

describe("Python", () => {
  test("the kernel is in the template's memory: the first code of a sandbox runs in one that has pandas", async () => {
    expect(await platform().client.sandboxes.get(sandbox.sandboxId)).toMatchObject({ start_path: "restore" });
    expect(await text("import sys; 'pandas' in sys.modules and 'matplotlib.pyplot' in sys.modules")).toBe("True");
  });

  test("state stays between executions, and the last expression is the result", async () => {
    const first = await run("x = 1");
    expect(first).toMatchObject({ results: [], logs: { stdout: [], stderr: [] }, error: undefined });
    const second = await run("x += 1; x");
    expect(second.text).toBe("2");
    expect(second.executionCount).toBe((first.executionCount ?? 0) + 1);
    expect(await text("'a' + 'b'")).toBe("ab");
  });

  test("output comes while the code runs, both streams apart", async () => {
    const seen: string[] = [];
    const code = "import sys, time\nprint('one', flush=True)\nwhile not seen():\n    time.sleep(0.1)\nprint('two', file=sys.stderr)";
    await run("import os\ndef seen():\n    return os.path.exists('/tmp/seen')");
    const { logs } = await run(code, {
      onStdout: async ({ line, error }) => {
        seen.push(`${String(error)} ${line}`);
        await sandbox.files.write("/tmp/seen", ""); // only now does the code go on
      },
      onStderr: ({ line, error }) => void seen.push(`${String(error)} ${line}`),
    });
    expect(logs.stdout.join("")).toBe("one\n");
    expect(logs.stderr.join("")).toBe("two\n");
    expect(seen).toEqual(["false one\n", "true two\n"]);
  });

  test("an error has name, value and traceback, and ends nothing else", async () => {
    const { error, logs } = await run("print('before')\ndef f():\n    return 1 / 0\nf()");
    expect(error).toMatchObject({ name: "ZeroDivisionError", value: "division by zero" });
    expect(error?.traceback).toMatch(/line 3, in f\(\)|f\(\)\n/);
    expect(error?.traceback).not.toContain("\u001b");
    expect(logs.stdout.join("")).toBe("before\n");
    expect((await run("def broken(:")).error).toMatchObject({ name: "SyntaxError" });
    expect((await run("input()")).error).toMatchObject({ name: "StdinNotImplementedError" });
    expect(await text("1 + 1")).toBe("2");
  });

  test("results have all forms that the code offers", async () => {
    const { results } = await run(
      "from IPython.display import *\ndisplay(HTML('<b>h</b>'), Markdown('*m*'), JSON({'a': 1}), Latex('$x$'), SVG('<svg/>'))\ndisplay({'text/plain': 'p', 'x/y': {'z': 1}}, raw=True)\n7",
    );
    expect(results.map((result) => [result.isMainResult, ...result.formats()])).toEqual([
      [false, "html"],
      [false, "markdown"],
      [false, "json"],
      [false, "latex"],
      [false, "svg"],
      [false],
      [true],
    ]);
    expect(results[2]?.json).toEqual({ a: 1 });
    expect(results[5]?.raw["extra"]).toEqual({ "x/y": { z: 1 } });
    expect(results[6]?.text).toBe("7");
  });

  test("a table is its columns, too", async () => {
    const { results } = await run(
      "import pandas as pd\npd.DataFrame({'name': ['a', None], 'when': pd.to_datetime(['2026-01-02', None]), 'n': [1.5, float('nan')]})",
    );
    expect(results[0]?.html).toContain("<table");
    expect(results[0]?.data).toEqual({ name: ["a", null], when: ["2026-01-02T00:00:00", null], n: [1.5, null] });
  });

  test("a chart is its picture and what it shows", async () => {
    const { results } = await run(
      "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label='l')\nplt.title('T')\nplt.xlabel('time (s)')\nplt.show()",
    );
    expect(
      Buffer.from(results[0]?.png ?? "", "base64")
        .subarray(1, 4)
        .toString(),
    ).toBe("PNG");
    expect(results[0]?.chart).toMatchObject({
      type: "line",
      title: "T",
      x_label: "time (s)",
      x_unit: "s",
      x_scale: "linear",
      elements: [
        {
          label: "l",
          points: [
            [1, 3],
            [2, 4],
          ],
        },
      ],
    });
    const bars = await run("plt.bar(['a', 'b'], [3, 4]); plt.show()");
    expect(bars.results[0]?.chart).toMatchObject({
      type: "bar",
      elements: [
        { label: "a", value: 3 },
        { label: "b", value: 4 },
      ],
    });
    const pie = await run("plt.pie([1, 3], labels=['p', 'q']); plt.show()");
    expect(pie.results[0]?.chart).toMatchObject({
      type: "pie",
      elements: [
        { label: "p", angle: 90 },
        { label: "q", angle: 270 },
      ],
    });
  });

  test("a lot of output, all of it", async () => {
    const { logs } = await run("for i in range(100_000): print(i)");
    const lines = logs.stdout.join("").split("\n");
    expect([lines.length, lines[0], lines[99_999]]).toEqual([100_001, "0", "99999"]);
  });
});

describe("variables", () => {
  const names = "import os; [os.environ.get(n) for n in ('FROM', 'ONLY', 'CALL', 'E2B_SANDBOX_ID')]";

  test("the sandbox's are there, the call's for the call", async () => {
    const { sandboxId } = sandbox;
    const own = `['create', 'create', None, '${sandboxId}']`;
    expect(await text(names)).toBe(own);
    expect(await text(names, { envs: { FROM: "call", CALL: "1" } })).toBe(`['call', 'create', '1', '${sandboxId}']`);
    expect(await text(names)).toBe(own);
  });

  test("what the code sets stays", async () => {
    await run("import os; os.environ['FROM'] = 'code'");
    expect(await text("os.environ['FROM']")).toBe("code");
    await run("os.environ['FROM'] = 'create'");
  });
});

describe("contexts", () => {
  test("are apart, have a folder, are listed, restarted and removed", async () => {
    const own = await context({ cwd: "/tmp" });
    expect(own).toMatchObject({ language: "python", cwd: "/tmp" });
    expect(await sandbox.listCodeContexts()).toContainEqual(own);
    await run("mine = 1", { context: own });
    expect(await text("import os; (mine, os.getcwd())", { context: own })).toBe("(1, '/tmp')");
    expect((await run("mine")).error).toMatchObject({ name: "NameError" });

    await sandbox.restartCodeContext(own);
    expect((await run("mine", { context: own })).error).toMatchObject({ name: "NameError" });
    await sandbox.removeCodeContext(own);
    expect(await sandbox.listCodeContexts()).not.toContainEqual(own);
    expect(await failureOf(run("1", { context: own }))).toBeInstanceOf(NotFoundError);
  });

  test("work at the same time, and one after the other within each", async () => {
    const [first, second] = [await context(), await context()];
    const wait = "import os, time\nwhile not os.path.exists('/tmp/go'):\n    time.sleep(0.1)\n'waited'";
    const waiting = run(wait, { context: first });
    const queued = run("'queued'", { context: first });
    expect(await text("open('/tmp/go', 'w').close(); 'went'", { context: second })).toBe("went");
    expect([(await waiting).text, (await queued).text]).toEqual(["waited", "queued"]);
    for (const each of [first, second]) await sandbox.removeCodeContext(each);
  });

  test("a kernel that ends is another one for the next code", async () => {
    const own = await context();
    expect((await run("import os; os._exit(1)", { context: own })).error).toMatchObject({ name: "KernelDied" });
    expect(await text("1 + 1", { context: own })).toBe("2");
    await sandbox.removeCodeContext(own);
  });

  test("what cannot be is refused", async () => {
    expect(await failureOf(context({ language: "cobol" }))).toBeInstanceOf(SandboxError);
    expect(await failureOf(context({ cwd: "/no/such/folder" }))).toBeInstanceOf(SandboxError);
    expect(await failureOf(sandbox.removeCodeContext("none"))).toBeInstanceOf(NotFoundError);
    expect(await failureOf(sandbox.restartCodeContext("none"))).toBeInstanceOf(NotFoundError);
  });
});

test("code whose caller has gone is interrupted; its kernel and state stay", async () => {
  await run("kept = 'kept'");
  const began = "/tmp/began";
  const gone = run(`open('${began}', 'w').close()\nwhile True: pass`, { timeoutMs: 5_000 });
  expect(await failureOf(gone)).toBeInstanceOf(TimeoutError);
  expect(await sandbox.files.exists(began)).toBe(true);
  expect(await text("kept")).toBe("kept");
});

describe("other languages", () => {
  test("JavaScript: state, await, output, results, errors", async () => {
    const js = (code: string) => run(code, { language: "js" });
    const first = await js("const a = await Promise.resolve(20); console.log('a is', a); console.error('aside'); ({ twice: 2 * a })");
    expect(first.error).toBeUndefined();
    expect([first.logs.stdout.join(""), first.logs.stderr.join("")]).toEqual(["a is 20\n", "aside\n"]);
    expect(first.results[0]?.json).toEqual({ twice: 40 });
    expect((await js("a + 1")).text).toBe("21");
    expect((await js("a.b.c")).error).toMatchObject({ name: "TypeError" });
    expect((await js("process.env.FROM")).text).toBe("create");
    expect((await js("process.exit(1)")).error).toMatchObject({ name: "InterpreterEnded" });
    expect((await js("typeof a")).text).toBe("undefined");
  });

  test("bash: state, folder, output, exit status", async () => {
    const bash = (code: string) => run(code, { language: "bash" });
    expect(await bash("cd /tmp; V=5; f() { echo f$V; }")).toMatchObject({ error: undefined });
    const { logs, error } = await bash("pwd; f; echo $FROM; echo aside >&2; (exit 3)");
    expect([logs.stdout.join(""), logs.stderr.join("")]).toEqual(["/tmp\nf5\ncreate\n", "aside\n"]);
    expect(error).toMatchObject({ name: "ExitStatus", value: "exit status 3" });
    expect((await bash("cat")).error).toBeUndefined(); // there is no input, and no wait for it
  });
});

test("two sandboxes of the template have nothing in common but where they began", async () => {
  const other = await Sandbox.create({ timeoutMs: sandboxTimeoutMs, envs: { FROM: "other" } });
  try {
    const code = "import os, random, numpy; [random.random(), numpy.random.rand(), os.environ['FROM'], os.environ['E2B_SANDBOX_ID']]";
    const options = { timeoutMs: codeTimeoutMs, requestTimeoutMs: codeTimeoutMs };
    const [own, others] = [await sandbox.runCode(code, options), await other.runCode(code, options)];
    const values = [own.text, others.text].map((value) => (value ?? "").slice(1, -1).split(", "));
    expect(values.map((all) => all.length)).toEqual([4, 4]);
    for (const position of [0, 1, 2, 3]) expect(values[0]?.[position]).not.toBe(values[1]?.[position]);
    await other.runCode("apart = 1", options);
    expect((await sandbox.runCode("apart", options)).error).toMatchObject({ name: "NameError" });
  } finally {
    await other.kill();
  }
});

test("state outlives a pause", async () => {
  await run("thought = 'half a thought'");
  await sandbox.pause();
  sandbox = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: sandboxTimeoutMs });
  await poll({ what: "the code interpreter", timeoutMs: untilTimeoutMs, intervalMs: 200 }, async () =>
    (await sandbox.isRunning()) ? true : undefined,
  );
  expect(await text("thought")).toBe("half a thought");
});
