import { defineConfig } from "vitest/config";

import { whyNoPostgres } from "./apps/control-plane/src/testing/postgres-binaries.ts";
import { databaseTests } from "./tools/database-tests.mjs";

/**
 * A test's file name says what it needs: `.test.ts` nothing, `.linux.test.ts` root and a real Linux network,
 * `.vm.test.ts` a VM, `.pg.test.ts` a PostgreSQL server. Those of `.test.ts` that open a database run twice: in the project
 * `unit` on PGlite, and in `pg` on a PostgreSQL server.
 */
const needs = ["linux", "vm", "pg"] as const;
const exclude = ["**/node_modules/**", "**/dist/**"];
/** What takes minutes and is for the soak: recipes of `images/templates`, which install hundreds of packages, and builds among crashes and on full disks. */
const withoutLongRuns = [
  ...(process.env["RECIPES"] === undefined ? ["tests/e2e/templates/**"] : []),
  ...(process.env["BUILD_FAULTS"] === undefined
    ? ["tests/e2e/templates-faults.vm.test.ts", "tests/e2e/templates-disk-full.vm.test.ts"]
    : []),
];
const resolve = { conditions: ["@roost/source"] };

export default defineConfig({
  ssr: { resolve },
  resolve,
  test: {
    pool: "forks",
    // Waits end when what they wait for is there; how long that takes is the machine's affair.
    expect: { poll: { timeout: 30_000 } },
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          isolate: false,
          maxWorkers: 4,
          include: ["**/*.test.ts"],
          exclude: [...exclude, ...needs.map((need) => `**/*.${need}.test.ts`)],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: "linux",
          include: ["**/*.linux.test.ts"],
          exclude,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
        },
      },
      {
        extends: true,
        test: {
          name: "vm",
          include: ["**/*.vm.test.ts"],
          exclude: [...exclude, ...withoutLongRuns],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          // Emulation keeps one CPU busy per guest that works, and most of a test is one guest
          maxWorkers: 2,
        },
      },
      {
        extends: true,
        test: {
          name: "pg",
          isolate: false,
          maxWorkers: 4,
          globalSetup: "apps/control-plane/src/testing/postgres-set-up.ts",
          include: ["**/*.pg.test.ts", ...(whyNoPostgres() === undefined ? databaseTests("apps/control-plane/src") : [])],
          exclude,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
