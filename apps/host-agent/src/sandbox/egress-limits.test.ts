import { must } from "@roost/kit";
import { expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

const limits = { outMbit: 10, inMbit: 0, connections: 5, connectionsPerSec: 0 };
const limited = { allowOut: [], denyOut: [], limits };
/** As they are in force: 0 on the wire is the host's */
const inForce = { outMbit: 10, inMbit: null, connections: 5, connectionsPerSec: null };
const none = { outMbit: null, inMbit: null, connections: null, connectionsPerSec: null };

/** Limits of the slot that was lent last. */
function newest(host: FakeHost) {
  const slot = must([...host.network.lent].at(-1), "the slot that was lent last");
  return host.network.egress.get(slot)?.limits ?? none;
}

test("limits are in force before the guest runs: after a create, a resume and a fork, and when the next host agent takes it over", async () => {
  await using host = await FakeHost.start();
  const seen: unknown[] = [];
  host.onGuest = () => void seen.push(newest(host));
  const spec = aSpec({ network: limited });
  const { sandboxId } = spec;
  const { sandbox } = await host.client.createSandbox({ spec });
  expect(sandbox?.spec?.network?.limits).toMatchObject(limits);
  await host.client.pauseSandbox({ sandboxId });
  await host.client.resumeSandbox({ sandboxId });
  const child = aSpec();
  await host.client.forkSandbox({ sandboxId, children: [{ sandboxId: child.sandboxId, accessToken: child.accessToken, envs: {} }] });
  expect(seen).toEqual([inForce, inForce, inForce]);
  await host.endAgent();
  host.network.egress.clear();
  await host.startAgent();
  expect([...host.network.egress.values()].map((policy) => policy.limits)).toEqual([inForce, inForce]);
});

test("limits are changed while the sandbox runs; wrong ones are refused, and those before stay", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  expect(newest(host)).toEqual(none);
  await host.client.setNetwork({ sandboxId, network: limited });
  expect(newest(host)).toEqual(inForce);
  const failure = await failureOf(
    host.client.setNetwork({ sandboxId, network: { ...limited, limits: { ...limits, connections: 70_000 } } }),
  );
  expect(failure).toMatchObject({ code: "request_invalid" });
  expect(newest(host)).toEqual(inForce);
  await host.client.setNetwork({ sandboxId });
  expect(newest(host)).toEqual(none);
});
