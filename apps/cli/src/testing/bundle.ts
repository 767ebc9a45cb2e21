import { execFile } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const appFolder = fileURLToPath(new URL("../..", import.meta.url));

/** The command line as it is delivered, for tests that need it in a process of its own. */
export class TestBundle implements AsyncDisposable {
  readonly main: string;
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
    this.main = join(folder, "main.js");
  }

  static async build(): Promise<TestBundle> {
    const outdir = `dist/test-bundle-${process.pid}-${Math.trunc(Math.random() * 1e9)}`;
    await promisify(execFile)(process.execPath, [join(appFolder, "build.mjs"), outdir], { timeout: 60_000 });
    return new TestBundle(join(appFolder, outdir));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }
}
