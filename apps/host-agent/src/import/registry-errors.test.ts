import { PlatformError } from "@roost/contract";
import { CommandError } from "@roost/kit";
import { expect, test } from "vitest";

import { meaningOf } from "./registry-errors.ts";

test.each([
  ["reading manifest x in 127.0.0.1:5000/a: manifest unknown: manifest unknown", "image_unusable", /there is no image/],
  [
    "unable to retrieve auth token: invalid username/password: unauthorized: incorrect username or password",
    "image_unusable",
    /credentials/,
  ],
  ["reading manifest latest in docker.io/a/b: requested access to the resource is denied", "image_unusable", /credentials/],
  ["toomanyrequests: You have reached your pull rate limit.", "registry_unreachable", /too many requests/],
  ["http: server gave HTTP response to HTTPS client", "registry_unreachable", /ROOST_INSECURE_REGISTRIES/],
  ["x509: certificate signed by unknown authority", "registry_unreachable", /certificate/],
  ["dial tcp: lookup nowhere.invalid: no such host", "registry_unreachable", /its name is not known/],
  ["dial tcp 10.0.0.1:443: i/o timeout", "registry_unreachable", /cannot be reached/],
  ["writing blob: no space left on device", "host_disk_full", /disk is full/],
])("%s", (said, code, message) => {
  const error = meaningOf(new CommandError(["skopeo"], "exited with 1", 1, `time="x" level=fatal msg="${said}"\n`), "a/b:c", "docker.io");
  expect(error).toBeInstanceOf(PlatformError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) as string });
});

test("an end that was asked for is no registry's fault", () => {
  const error = new CommandError(["skopeo"], "was aborted", null, "");
  expect(meaningOf(error, "a", "b")).toBe(error);
});
