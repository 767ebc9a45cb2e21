import { shellExitCode } from "@roost/contract";
import { expect, test } from "vitest";

import { exitStatus } from "./exit-status.ts";

test.each([
  [0, 0, true, "exit status 0", 0],
  [7 << 8, 7, true, "exit status 7", 7],
  [255 << 8, 255, true, "exit status 255", 255],
  [9, -1, false, "signal: killed", 137],
  [15, -1, false, "signal: terminated", 143],
  [0x80 | 11, -1, false, "signal: segmentation fault (core dumped)", 139],
  [13, -1, false, "signal: broken pipe", 141],
  [34, -1, false, "signal: signal 34", 162],
])("wait status %d", (waitStatus, exitCode, exited, status, shellCode) => {
  const ended = exitStatus(waitStatus);
  expect(ended).toEqual({ exitCode, exited, status, error: exitCode === 0 ? undefined : status });
  expect(shellExitCode(ended)).toBe(shellCode);
});
