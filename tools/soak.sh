#!/usr/bin/env bash
# `npm run soak`: the long runs. Every random test with many seeds, every step of the crash matrices, long marathons, 200 forks, all recipes.
# ROUNDS=<number> sets how often (default 10). Stops at the first failure; its seed is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh --with-tests
node images/dist/main.js
rounds="${ROUNDS:-10}"
vm() { node_modules/.bin/vitest run --project vm "$@"; }
echo "once: every step of the crash matrices, 200 forks, all recipes, builds that fill disks, hosts without their control plane for 90 s"
CRASH_STEPS=all node_modules/.bin/vitest run --project linux apps/host-agent/src/sandbox/crash-matrix.linux.test.ts
CRASH_STEPS=all vm apps/host-agent/src/crash.vm.test.ts
IDENTITY_FORKS=200 vm tests/e2e/identity.vm.test.ts
RECIPES=all vm tests/e2e/templates
BUILD_FAULTS=long vm tests/e2e/templates-disk-full.vm.test.ts tests/e2e/templates-uploads.vm.test.ts
WAKE_REQUESTS=1000 vm tests/e2e/wake.vm.test.ts
OUTAGE_SEC=90 CUT_SEC=180 vm tests/e2e/hosts.vm.test.ts
for ((round = 1; round <= rounds; round++)); do
  seed=$((RANDOM * 32768 + RANDOM))
  echo "round $round of $rounds, SEED=$seed"
  SEED=$seed SIM_RUNS=1000 node_modules/.bin/vitest run --project unit --project linux
  SEED=$seed MARATHON_STEPS=200 CONCURRENCY_REQUESTS=40 vm tests/e2e/marathon.vm.test.ts tests/e2e/concurrency.vm.test.ts
  SEED=$seed SECRET_STEPS=100 vm tests/e2e/secrets.vm.test.ts
  SEED=$seed BUILD_FAULTS=short vm tests/e2e/kill.vm.test.ts tests/e2e/api.vm.test.ts tests/e2e/templates-faults.vm.test.ts
done
echo "$rounds rounds passed"
