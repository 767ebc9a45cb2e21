import { Code } from "@connectrpc/connect";
import { errorCodeHeader, errorCodes, PlatformError } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import { retryAfterHeader, toConnectError } from "./connect-error.ts";

test.each(errorCodes)("%s travels with its message and its code", (code) => {
  const error = toConnectError(new PlatformError(code, "what went wrong", { detail: "/a/path", retryAfterSec: 7 }), silentLogger);
  expect(error.rawMessage).toBe("what went wrong");
  expect(error.metadata.get(errorCodeHeader)).toBe(code);
  expect(error.metadata.get(retryAfterHeader)).toBe("7");
  expect(JSON.stringify([...error.metadata])).not.toContain("/a/path");
});

test("an error that nobody expected shows nothing of itself", () => {
  const error = toConnectError(new Error("ENOENT: /var/lib/secret"), silentLogger);
  expect(error.code).toBe(Code.Internal);
  expect(error.metadata.get(errorCodeHeader)).toBe("internal");
  expect(error.message).not.toContain("secret");
});
