import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { controlPlaneOptions } from "@roost/control-plane/options";
import { hostAgentOptions, membershipOptions } from "@roost/host-agent/options";
import { run, type AnyOptions } from "@roost/kit";
import { expect, test } from "vitest";

const folder = fileURLToPath(new URL("../../packaging/systemd", import.meta.url));
const tables: Readonly<Record<string, readonly AnyOptions[]>> = {
  "control-plane": [controlPlaneOptions],
  "host-agent": [hostAgentOptions, membershipOptions],
};

test.each(Object.entries(tables))("the unit of %s starts it, with settings that it has, and starts it again", async (name, options) => {
  const unit = await readFile(join(folder, `roost-${name}.service`), "utf8");
  expect(unit).toMatch(new RegExp(`^ExecStart=/opt/roost/node_modules/\\.bin/roost ${name}$`, "m"));
  expect(unit).toMatch(/^Restart=always$/m);
  const known = options.flatMap((table) => table.keys.map((key) => table.environmentName(key)));
  for (const line of unit.split("\n").filter((each) => each.startsWith("Environment=")))
    for (const [, setting] of line.matchAll(/(ROOST_[A-Z_]+)=/g)) expect(known).toContain(setting);
});

test("a host agent's VMs are left alone when it ends, and its mounts are the machine's", async () => {
  const unit = await readFile(join(folder, "roost-host-agent.service"), "utf8");
  expect(unit).toMatch(/^KillMode=process$/m);
  // Any of these gives a unit a mount namespace of its own, where the next host agent does not find the namespaces of slots
  expect(unit).not.toMatch(
    /^(Protect(System|Home|KernelTunables|KernelModules|ControlGroups|Hostname)|PrivateTmp|PrivateDevices|PrivateMounts|ReadOnlyPaths)=/m,
  );
});

test("systemd understands both", async ({ skip }) => {
  if ((await run(["systemd-analyze", "--version"]).catch(() => undefined)) === undefined) skip("systemd-analyze is not installed");
  const copies = await mkdtemp(join(tmpdir(), "roost-units-"));
  try {
    for (const name of Object.keys(tables)) {
      const unit = await readFile(join(folder, `roost-${name}.service`), "utf8");
      const copy = join(copies, `roost-${name}.service`);
      await writeFile(copy, unit.replace(/^ExecStart=\S+/m, "ExecStart=/bin/true")); // only the program is somewhere else here
      await run(["systemd-analyze", "verify", "--recursive-errors=no", copy], { timeoutMs: 60_000 });
    }
  } finally {
    await rm(copies, { recursive: true });
  }
});
