#!/usr/bin/env bash
# `npm run bench`: prints what Roost costs on this machine; `-- --json FILE` also writes the rows, `-- --quick` takes fewer samples.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh
node images/dist/main.js
exec node_modules/.bin/tsx --conditions=@roost/source tests/bench/main.ts "$@"
