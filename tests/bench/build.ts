import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB } from "@roost/kit";
import type { BuildSource, LocalRecipe } from "@roost/sdk";

import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { firstOutput, mustStartBy, rest } from "./measure.ts";
import { row } from "./report.ts";

const buildCount = 5;
const createCount = 20;
/** What the template's layers hold, in `MiB`: random, so that nothing makes it less */
const contentMib = 16;

/** A template of five steps on `base`, with a server in its memory: with an empty cache; when nothing changed; when only what runs in it did; when the last step did. Then what it takes, and what a start from it costs. */
export const buildGroup: Group = {
  name: "build",
  run: async (bench) => {
    const context = await mkdtemp(join(tmpdir(), "roost-bench-build-"));
    try {
      await writeFile(join(context, "page.html"), "built\n");
      await withMemoryImages({}, async (platform) => {
        await measureBuilds(bench, platform, context);
        await measureCreates(bench, platform);
      });
    } finally {
      await rm(context, { recursive: true, force: true });
    }
  },
};

const name = "bench";

function source(
  context: string,
  { last = "first", server = "", force = false }: { last?: string; server?: string; force?: boolean },
): BuildSource {
  const recipe: LocalRecipe = {
    from: { template: "base" },
    steps: [
      { kind: "user", name: "root" },
      { kind: "run", command: `head -c ${contentMib * MiB} /dev/urandom >/opt/content` },
      { kind: "copy", source: "page.html", destination: "/srv/page.html" },
      { kind: "run", command: "cp /srv/page.html /srv/index.html" },
      { kind: "workdir", path: "/srv" },
      { kind: "run", command: `echo ${last} >/srv/last` },
      { kind: "user", name: "user" },
    ],
    start_command: `exec python3 -m http.server 8000 # ${server}`,
    ready_command: "curl --fail --silent --output /dev/null http://127.0.0.1:8000/index.html",
    force,
  };
  return { recipe, context };
}

async function measureBuilds(bench: Bench, platform: TestPlatform, context: string): Promise<void> {
  const seconds = { cold: [] as number[], same: [] as number[], server: [] as number[], last: [] as number[] };
  const sizes: number[] = [];
  const cached: string[] = [];
  for (let left = bench.samples(buildCount); left > 0; left -= 1) {
    const kinds = [
      ["cold", source(context, { force: true })],
      ["same", source(context, {})],
      ["server", source(context, { server: `changed ${left}` })],
      ["last", source(context, { last: `changed-${left}` })],
    ] as const;
    for (const [kind, what] of kinds) {
      await rest();
      const startMs = performance.now();
      const build = await platform.client.templates.build(what, { name });
      seconds[kind].push((performance.now() - startMs) / 1000);
      cached.push(`${kind} ${build.steps_cached}/${build.step_count}`);
      if (kind === "cold" && build.steps_cached > 0) throw new Error("a build that was forced used the cache");
      if ((kind === "same" || kind === "server") && build.steps_cached < build.step_count)
        throw new Error(`a build that changed no step ran one: ${cached.join(", ")}`);
      if (build.size_bytes !== null) sizes.push(build.size_bytes / MiB);
    }
  }
  const baseline = { name: "nothing from the cache", values: seconds.cold };
  bench.report(row("build of five steps and a server, nothing from the cache", "s", seconds.cold));
  bench.report(row("  nothing changed", "s", seconds.same, { baseline }));
  bench.report(row("  another start command", "s", seconds.server, { baseline }));
  bench.report(row("  another last step", "s", seconds.last, { baseline }));
  bench.report(row(`template on disk, ${contentMib} MiB of it written by its steps`, "MiB", sizes));
}

async function measureCreates(bench: Bench, platform: TestPlatform): Promise<void> {
  const milliseconds = { base: [] as number[], [name]: [] as number[] };
  for (let left = bench.samples(createCount); left > 0; left -= 1) {
    for (const template of ["base", name] as const) {
      await rest();
      const startMs = performance.now();
      const answer = await platform.client.sandboxes.create({ template, timeout_sec: 0 });
      const sandbox = platform.client.sandbox(answer.id);
      await firstOutput(sandbox);
      milliseconds[template].push(performance.now() - startMs);
      mustStartBy("restore", answer);
      await sandbox.delete();
    }
  }
  const baseline = { name: "from base", values: milliseconds.base };
  bench.report(row("create from it to first command's output, pool empty", "ms", milliseconds[name], { baseline }));
}
