import type { SandboxHandle } from "@roost/sdk";
import { beforeAll, expect, test } from "vitest";

import { roost } from "../../support/cli.ts";
import { usePlatform } from "../../support/platform.ts";
import { recipeFolder, recipeTimeoutMs } from "../../support/recipe.ts";

const platform = usePlatform();
let sandbox: SandboxHandle;
beforeAll(async () => {
  const built = await roost(platform(), ["template", "build", recipeFolder("python"), "-t", "python"], "", recipeTimeoutMs);
  expect(built.exitCode, built.stderr).toBe(0);
  sandbox = await platform().sandbox({ template: "python", timeout_sec: 0 });
}, recipeTimeoutMs);

/** Output of a shell's command, which must succeed. */
async function run(command: string): Promise<string> {
  const { stdout, stderr, exit_code: exitCode } = await sandbox.exec("bash", { args: ["-c", command], timeout_sec: 240 });
  expect(exitCode, `${command}: ${stderr}`).toBe(0);
  return stdout.trim();
}

test("it starts from memory, as the user and in the folder that the recipe says", async () => {
  expect(await sandbox.get()).toMatchObject({ start_path: "restore", template: "python" });
  expect(await run("id -un; pwd; echo $PYTHONUNBUFFERED; sudo id -un")).toBe("user\n/home/user\n1\nroot");
});

test("what its packages are for works", async () => {
  const program = [
    "import io, numpy, pandas, yaml, bs4, lxml, requests",
    "table = pandas.read_csv(io.StringIO('name,size\\na,1\\nb,2\\n'))",
    "print(int(numpy.dot(table['size'], [10, 20])), yaml.safe_load('a: [1, 2]')['a'], bs4.BeautifulSoup('<p>x</p>', 'lxml').p.text)",
  ].join("\n");
  await sandbox.files.write("/home/user/program.py", program);
  expect(await run("python program.py")).toBe("50 [1, 2] x");
});

test("pip installs what is there, and pytest runs it", async () => {
  await sandbox.files.write(
    "/home/user/tool/setup.py",
    "from setuptools import setup\nsetup(name='tool', version='1.2', py_modules=['tool'])\n",
  );
  await sandbox.files.write("/home/user/tool/tool.py", "def twice(n):\n    return 2 * n\n");
  await sandbox.files.write("/home/user/test_tool.py", "import tool\n\ndef test_twice():\n    assert tool.twice(21) == 42\n");
  await run("pip install --no-index --no-build-isolation ./tool");
  expect(await run("python3 -m pytest -q test_tool.py")).toContain("1 passed");
  expect(await run("pip list --format=freeze | grep ^tool")).toBe("tool==1.2");
});
