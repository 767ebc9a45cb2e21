import { LoadLab } from "@roost/control-plane/testing/load-lab";
import { whyNoPostgres } from "@roost/control-plane/testing/postgres-binaries";

import type { Bench, Group } from "./bench.ts";
import { eachAtOnce, timed } from "./measure.ts";
import { row } from "./report.ts";

const sandboxCount = 10_000;
const createsAtOnce = 500;
const readersAtOnce = 16;

/** The control plane's own work, with hosts that answer at once: on the embedded database, and on PostgreSQL where there is one. */
export const controlPlaneGroup: Group = {
  name: "control-plane",
  run: async (bench) => {
    await measure(bench, "PGlite");
    if (whyNoPostgres() === undefined) await measure(bench, "PostgreSQL");
  },
};

async function measure(bench: Bench, kind: "PGlite" | "PostgreSQL"): Promise<void> {
  await using lab = await LoadLab.start(kind, 10);
  await lab.fill(sandboxCount);
  const among = `among ${sandboxCount}, ${kind}`;
  await readers(bench, `get of a sandbox ${among}`, bench.samples(5_000), async (index) => lab.get(index * 7_919));
  await readers(bench, `first page of 100 ${among}`, bench.samples(500), async () => lab.list(0));
  await readers(bench, `fifth page of 100 ${among}`, bench.samples(100), async () => lab.list(4));
  const rounds: number[] = [];
  for (let round = 0; round < bench.samples(10); round += 1) rounds.push(await timed(async () => lab.reconcile()));
  bench.report(row(`reconcile ${sandboxCount} sandboxes on 10 hosts, ${kind}`, "ms", rounds));
  const creates: number[] = [];
  const all = await timed(async () =>
    eachAtOnce(createsAtOnce, Array.from({ length: createsAtOnce }).keys(), async () => {
      creates.push(await timed(async () => lab.create()));
    }),
  );
  bench.report(row(`create of ${createsAtOnce} at once ${among}`, "ms", creates));
  bench.report(row(`creates per second, ${createsAtOnce} at once ${among}`, "1/s", [createsAtOnce / (all / 1_000)]));
  const api = await lab.serve();
  await api.get(0);
  await readers(bench, `API: GET of a sandbox ${among}`, bench.samples(5_000), async (index) => api.get(index * 7_919));
  await readers(bench, `API: GET of the first page of 100 ${among}`, bench.samples(500), async () => api.list());
}

async function readers(bench: Bench, name: string, count: number, read: (index: number) => Promise<void>): Promise<void> {
  const times: number[] = [];
  const all = await timed(async () =>
    eachAtOnce(readersAtOnce, Array.from({ length: count }).keys(), async (index) => {
      times.push(await timed(async () => read(index)));
    }),
  );
  bench.report(row(`${name}, ${readersAtOnce} at once`, "ms", times));
  bench.report(row(`per second: ${name}, ${readersAtOnce} at once`, "1/s", [count / (all / 1_000)]));
}
