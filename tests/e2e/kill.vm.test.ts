import { poll } from "@roost/kit";
import { RoostError } from "@roost/sdk";
import { describe, expect, test } from "vitest";

import { roost } from "../support/cli.ts";
import { findVmm } from "../support/find-vmm.ts";
import { usePlatform } from "../support/platform.ts";

/** Without memory images a create takes seconds: time to be half-way. */
const platform = usePlatform({ ROOST_MEMORY_IMAGES: "false" });

/** What a user sees after each of the three programs that hold a sandbox up is killed without warning. */
describe("kill -9", () => {
  test("of the platform: sandboxes run on, and the next start finds them as they were", async () => {
    const sandbox = await platform().sandbox({ metadata: { test: "adoption" }, timeout_sec: 0 });
    const before = await sandbox.get();
    const { pid } = await sandbox.execBackground("sh", {
      args: ["-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.2; done"],
      tag: "counter",
    });
    const bootId = (await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout;

    await platform().killHard();
    await platform().up();

    const again = platform().client.sandbox(sandbox.id);
    const after = await again.get();
    expect(after.state).toBe("running");
    expect(after).toMatchObject({
      template: before.template,
      metadata: before.metadata,
      created_at: before.created_at,
      started_at: before.started_at,
    });
    expect((await again.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout).toBe(bootId);
    const processes = await again.processes.list();
    expect(processes).toContainEqual(expect.objectContaining({ pid, tag: "counter" }));
    const count = async () => Number((await again.exec("cat", { args: ["/tmp/count"] })).stdout);
    const first = await count();
    await poll({ what: "the counter to go on", timeoutMs: 30_000 }, async () => ((await count()) > first ? true : undefined));
    await again.delete();
  });

  test("of the platform while a sandbox is being created: the create is undone and said so", async () => {
    const known = new Set<string>();
    for await (const { id } of platform().client.sandboxes.list()) known.add(id);
    const created = platform()
      .client.sandboxes.create({ metadata: { test: "half-way" } })
      .then(
        () => "created",
        (error: unknown) => error,
      );
    const id = await poll({ what: "the sandbox's record", timeoutMs: 20_000 }, async () => {
      for await (const sandbox of platform().client.sandboxes.list({ metadata: { test: "half-way" } })) return sandbox.id;
      return undefined;
    });
    await poll(
      { what: "the sandbox's VMM", timeoutMs: 20_000, intervalMs: 10 },
      async () => (await findVmm(platform().folder, id)) ?? undefined,
    );
    await platform().killHard();
    expect(await created).toBeInstanceOf(Error);
    await platform().up();

    const after = await poll({ what: "the end of the half-made sandbox", timeoutMs: 30_000 }, async () => {
      const sandbox = await platform().client.sandboxes.get(id);
      return sandbox.state === "creating" ? undefined : sandbox;
    });
    expect(after.state).toBe("failed");
    expect(after.failure_reason).toMatch(/while the sandbox was being created/);
    expect(await findVmm(platform().folder, id)).toBeUndefined();
    await platform().client.sandboxes.delete(id);
  });

  test("of the VMM: the sandbox is failed, with signal and its last console lines", async () => {
    const sandbox = await platform().sandbox();
    await sandbox.exec("sh", { args: ["-c", "echo last words | sudo tee /dev/ttyS0 >/dev/null"] });
    const stream = await sandbox.execStream("sleep", { args: ["600"] });
    const pid = await poll({ what: "the VMM's pid", timeoutMs: 30_000 }, () => findVmm(platform().folder, sandbox.id));
    process.kill(pid, "SIGKILL");

    await expect(stream.exit()).rejects.toBeInstanceOf(RoostError);
    const after = await poll({ what: "the sandbox to be failed", timeoutMs: 30_000 }, async () => {
      const now = await sandbox.get();
      return now.state === "failed" ? now : undefined;
    });
    expect(after.failure_reason).toMatch(/SIGKILL/);
    expect(after.vm_exit).toMatchObject({ exit_code: null, signal: "SIGKILL" });
    expect(after.vm_exit?.console_tail.join("\n")).toContain("last words");
    await expect(sandbox.exec("true")).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    const shown = await roost(platform(), ["get", sandbox.id]);
    expect(shown.stdout.toString()).toContain("SIGKILL");
    await sandbox.delete();
    await expect(platform().client.sandboxes.get(sandbox.id)).resolves.toMatchObject({ state: "stopped" });
  });

  test("of the VMM while the platform is down: the next start tells how it ended", async () => {
    const sandbox = await platform().sandbox();
    const pid = await poll({ what: "the VMM's pid", timeoutMs: 30_000 }, () => findVmm(platform().folder, sandbox.id));
    await platform().killHard();
    process.kill(pid, "SIGKILL");
    await platform().up();
    const after = await poll({ what: "the sandbox to be failed", timeoutMs: 30_000 }, async () => {
      const now = await platform().client.sandboxes.get(sandbox.id);
      return now.state === "failed" ? now : undefined;
    });
    expect(after.vm_exit).toMatchObject({ signal: "SIGKILL" });
    await platform().client.sandboxes.delete(sandbox.id);
  });

  test("of the guest agent: what it ran is cut off with an error, the sandbox stays and answers again", async () => {
    const sandbox = await platform().sandbox();
    const bootId = (await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout;
    const stream = await sandbox.execStream("sleep", { args: ["600"] });
    // The oldest process that runs the agent's bundle; the bracket keeps pgrep's own shell out.
    await sandbox.exec("sh", { args: ["-c", "sudo kill -9 $(pgrep -o -f 'agent[.]mjs')"] }).catch(() => undefined); // this very answer may be cut off too
    await expect(stream.exit()).rejects.toBeInstanceOf(RoostError);

    const answer = await poll(
      { what: "the restarted guest agent", timeoutMs: 60_000, intervalMs: 200 },
      async () => (await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout,
    );
    expect(answer).toBe(bootId);
    expect((await sandbox.get()).state).toBe("running");
    // It still wants the sandbox's token, and still knows its environment.
    expect(
      (await sandbox.exec("sh", { args: ["-c", "curl -s -o /dev/null -w '%{http_code}' http://169.254.0.21:49983/envs"] })).stdout,
    ).toBe("401");
    expect((await sandbox.exec("printenv", { args: ["ROOST_SANDBOX_ID"] })).stdout.trim()).toBe(sandbox.id);
    await sandbox.delete();
  });
});
