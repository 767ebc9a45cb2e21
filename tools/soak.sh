#!/usr/bin/env bash
# `npm run soak`: the long runs. Every random test with many seeds, and the tests that kill things, again and again.
# ROUNDS=<number> sets how often (default 10). Stops at the first failure; its seed is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh --with-tests
node images/dist/main.js
rounds="${ROUNDS:-10}"
for ((round = 1; round <= rounds; round++)); do
  seed=$((RANDOM * 32768 + RANDOM))
  echo "round $round of $rounds, SEED=$seed"
  SEED=$seed node_modules/.bin/vitest run --project unit --project linux --reporter=dot
  SEED=$seed node_modules/.bin/vitest run --project vm --reporter=dot tests/e2e/kill.vm.test.ts tests/e2e/api.vm.test.ts
done
echo "$rounds rounds passed"
