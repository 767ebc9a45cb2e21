#!/usr/bin/env bash
# `npm run bench`: prints what Roost costs on this machine; tests/bench/main.ts says what may follow `--`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh --with-benchmarks
node images/dist/main.js
# Not through the `tsx` command: it would end the benchmark at a signal before that has ended its sandboxes.
exec node --import tsx --conditions=@roost/source tests/bench/main.ts "$@"
