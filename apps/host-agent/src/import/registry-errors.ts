import { PlatformError } from "@roost/contract";
import { CommandError } from "@roost/kit";

import { quoted, unusable } from "./unusable.ts";

/** What skopeo's messages mean to whoever asked for the image: the first that fits. They are Go's and registries' own, stable for years. */
const meanings: readonly (readonly [RegExp, (where: Where) => PlatformError])[] = [
  [
    /manifest unknown|name unknown|repository name not known|manifest .*not found|status code 404|NAME_UNKNOWN|MANIFEST_UNKNOWN/i,
    ({ image }) =>
      unusable(`there is no image ${image}; look for a typing mistake in its name or tag, and whether its registry wants credentials`),
  ],
  [
    /unauthorized|authentication required|invalid username\/password|incorrect username or password|denied|forbidden|status code 40[13]|no basic auth credentials/i,
    ({ image }) => unusable(`the registry does not let us have ${image}; give credentials that may read it`),
  ],
  [
    /toomanyrequests|too many requests|status code 429|rate limit/i,
    ({ registry }) => unreachable(`the registry ${registry} has had too many requests; try again later, or give credentials`),
  ],
  [
    /server gave HTTP response to HTTPS client/i,
    ({ registry }) =>
      unreachable(
        `the registry ${registry} speaks no TLS; the operator may add it to ROOST_INSECURE_REGISTRIES if its network can be trusted`,
      ),
  ],
  [
    /x509|certificate|tls:/i,
    ({ registry }) =>
      unreachable(`the certificate of the registry ${registry} cannot be trusted; the operator may install its authority on the host`),
  ],
  [
    /digest did not match|does not match|size mismatch|unexpected EOF reading blob/i,
    ({ image }) => unusable(`${image} is damaged in its registry; push it again`),
  ],
  [
    /no space left on device/i,
    () => new PlatformError("host_disk_full", "the host's disk is full, so it cannot fetch the image right now", { retryAfterSec: 60 }),
  ],
  [/no such host|server misbehaving/i, ({ registry }) => unreachable(`there is no registry ${registry}: its name is not known here`)],
];

interface Where {
  readonly image: string;
  readonly registry: string;
}

function unreachable(message: string): PlatformError {
  return new PlatformError("registry_unreachable", message, { retryAfterSec: 30 });
}

/** The error for a skopeo that failed; its own words go to the log. */
export function meaningOf(error: unknown, image: string, registry: string): unknown {
  if (!(error instanceof CommandError) || /was aborted/.test(error.message)) return error;
  const where = { image: quoted(image, 300), registry: quoted(registry, 300) };
  const said = error.stderr.trim().split("\n").at(-1) ?? "";
  const meaning = meanings.find(([pattern]) => pattern.test(said))?.[1];
  const found =
    meaning?.(where) ??
    unreachable(`the registry ${where.registry} cannot be reached, or does not answer as registries do; try again later`);
  return new PlatformError(found.code, found.message, {
    detail: said.slice(-500) || error.message.slice(-500),
    ...(found.retryAfterSec === undefined ? {} : { retryAfterSec: found.retryAfterSec }),
  });
}
