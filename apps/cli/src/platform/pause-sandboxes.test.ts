import { createClient, createRouterTransport } from "@connectrpc/connect";
import { HostAgentService, SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { Deferred } from "@roost/kit";
import { expect, test } from "vitest";

import type { PauseReport } from "./pause-report.ts";
import { pauseSandboxes } from "./pause-sandboxes.ts";

test("tells how many of those that ran are paused, and in the end which are not", async () => {
  const states = new Map([
    ["irunning1", SandboxState.RUNNING],
    ["irunning2", SandboxState.RUNNING],
    ["isnapshotting", SandboxState.SNAPSHOTTING],
    ["ipaused", SandboxState.PAUSED],
    ["ifailed", SandboxState.FAILED],
  ]);
  const firstLook = new Deferred<void>();
  const transport = createRouterTransport(({ service }) =>
    service(HostAgentService, {
      listSandboxes: () => ({ sandboxes: [...states].map(([sandboxId, state]) => ({ spec: { sandboxId }, state })) }),
      pauseAll: async () => {
        states.set("irunning1", SandboxState.PAUSED);
        await firstLook.promise;
        states.set("isnapshotting", SandboxState.PAUSED);
        return {
          pausedSandboxIds: ["irunning1", "isnapshotting"],
          failed: [{ sandboxId: "irunning2", code: "host_disk_full", message: "the host's disk is full" }],
        };
      },
    }),
  );
  const reports: PauseReport[] = [];
  const last = await pauseSandboxes(createClient(HostAgentService, transport), async (report) => {
    reports.push(report);
    if (report.paused > 0) firstLook.resolve();
  });
  expect(reports.at(-1)).toMatchObject({ total: 3, paused: 1, isOver: false });
  expect(last).toEqual({
    total: 3,
    paused: 2,
    failed: [{ sandboxId: "irunning2", message: "the host's disk is full" }],
    isOver: true,
  });
});
