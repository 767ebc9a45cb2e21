#!/usr/bin/env bash
# `npm run quickstart`: from a fresh checkout to a program's output from inside a microVM.
# Every part of it is skipped when it is done already, so the second run takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/bootstrap.sh
node images/dist/main.js
node_modules/.bin/roost up --detach
exec node_modules/.bin/tsx --conditions=@roost/source tools/demo/main.ts
