/**
 * `npm run bench`: what Roost costs, on this machine, now.
 *
 *     npm run bench -- [--quick] [--only NAME]... [--json FILE] [--markdown FILE] [--profile]
 *
 * Everything goes through the public API of platforms of its own (own folders, own ports), so an installed one is left alone. `--quick` takes a
 * fifth of the samples and leaves out what takes long; `--profile` says after a row which threads its time went to.
 */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { Bench, interrupt, type Group } from "./bench.ts";
import { buildGroup } from "./build.ts";
import { checkpointGroup } from "./checkpoint.ts";
import { coldBootGroup } from "./cold-boot.ts";
import { controlPlaneGroup } from "./control-plane.ts";
import { crunGroup } from "./crun.ts";
import { densityGroup } from "./density.ts";
import { e2bGroup } from "./e2b.ts";
import { execGroup } from "./exec.ts";
import { forkGroup } from "./fork.ts";
import { idleGroup } from "./idle.ts";
import { describeMachine, describeOthers } from "./machine.ts";
import { networkGroup } from "./network.ts";
import { pauseGroup } from "./pause.ts";
import { pausedDiskGroup } from "./paused-disk.ts";
import { proxyGroup } from "./proxy.ts";
import { markdown, rowHeader } from "./report.ts";
import { resumeGroup } from "./resume.ts";
import { poolGroup, restoreGroup } from "./start.ts";
import { transferGroup } from "./transfer.ts";

const groups: readonly Group[] = [
  coldBootGroup,
  crunGroup,
  restoreGroup,
  poolGroup,
  resumeGroup,
  pauseGroup,
  checkpointGroup,
  forkGroup,
  execGroup,
  e2bGroup,
  transferGroup,
  proxyGroup,
  networkGroup,
  idleGroup,
  pausedDiskGroup,
  buildGroup,
  controlPlaneGroup,
  densityGroup,
];

const { values: flags } = parseArgs({
  options: {
    json: { type: "string" },
    markdown: { type: "string" },
    quick: { type: "boolean", default: false },
    profile: { type: "boolean", default: false },
    only: { type: "string", multiple: true, default: [] },
  },
});
const unknown = flags.only.find((name) => !groups.some((group) => group.name === name));
if (unknown !== undefined) {
  process.stderr.write(`bench: there is no group ${unknown}; there are ${groups.map(({ name }) => name).join(", ")}\n`);
  process.exit(2);
}
const chosen = groups.filter(({ name, isHeavy }) => (flags.only.length > 0 ? flags.only.includes(name) : isHeavy !== true || !flags.quick));

process.stdout.write(`${await describeMachine()}\n${await describeOthers()}\n${rowHeader}\n\n`);
const bench = new Bench({ quick: flags.quick, profile: flags.profile });
const failures: string[] = [];
let isEnding = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    isEnding = true;
    process.stdout.write(`${signal}: ending what runs; a second one leaves it behind\n`);
    void interrupt();
  });
}
for (const group of chosen) {
  if (isEnding) break;
  try {
    await group.run(bench);
  } catch (error) {
    // One group that fails does not take the others' figures away
    process.stdout.write(`${group.name} FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    failures.push(group.name);
  }
}
const missed = bench.rows.filter(({ reach }) => reach?.met === false);
process.stdout.write(
  `\n${bench.rows.length} rows, ${missed.length} missed their reach${failures.length > 0 ? `, failed: ${failures.join(", ")}` : ""}\n`,
);
if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify(bench.rows, null, 2)}\n`);
if (flags.markdown !== undefined) await writeFile(flags.markdown, markdown(bench.rows));
process.exitCode = failures.length > 0 ? 1 : 0;
