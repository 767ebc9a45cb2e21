import { second } from "@roost/kit";
import { expect, test } from "vitest";

import { HostRequestLimits } from "./host-request-limits.ts";

const tooMany = { code: "rate_limited", retryAfterSec: 10 };

test("four requests of one host are under way at once; of another as many", async () => {
  const limits = new HostRequestLimits(10 * second);
  const done = await Promise.all(Array.from({ length: 4 }, async () => limits.begin("one")));
  await expect(limits.begin("one")).rejects.toMatchObject(tooMany);
  (await limits.begin("other"))();
  done[0]?.();
  (await limits.begin("one"))();
});

test("a host that is asked for heartbeats more often may send more", async () => {
  const limits = new HostRequestLimits(0.5 * second);
  for (let count = 0; count < 80; count += 1) (await limits.begin("one"))();
  await expect(limits.begin("one")).rejects.toMatchObject(tooMany);
});
