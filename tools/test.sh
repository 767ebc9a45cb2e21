#!/usr/bin/env bash
# `npm test`: everything this machine can run, from nothing but a checkout. Ends with one line `N passed, N failed`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh --with-tests
exec node tools/test.mjs "$@"
