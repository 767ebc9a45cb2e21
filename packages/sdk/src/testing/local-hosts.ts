import { newId, type CreateHostInput, type DrainMode, type Host, type UpdateHostBody } from "@roost/contract";

import { FakeError, type FakeCall, type FakeHandlers } from "./fake-call.ts";

/** Hosts that are only remembered: nothing runs on them. */
export class LocalHosts {
  readonly all = new Map<string, Host>();

  /** One that has registered and is well. */
  add(name: string, more: Partial<Host> = {}): Host {
    const now = new Date().toISOString();
    const host: Host = {
      id: newId("h"),
      name,
      state: "ready",
      is_reachable: true,
      address: "10.0.0.7:7072",
      team_id: null,
      tags: [],
      description: {
        agent_version: "0.1.0",
        vmm: "qemu",
        vmm_version: "9",
        accelerator: "kvm",
        accelerator_reason: "it works",
        kernel_version: "6.1",
        arch: "x64",
        cpu_count: 8,
        memory_mb: 16_384,
        disk_mb: 100_000,
        sandbox_count_max: 64,
      },
      load: { memory_free_mb: 8192, disk_free_mb: 50_000, cpu_load: 0.5, sandbox_count: 3 },
      health: { is_healthy: true, problems: [] },
      clock_offset_ms: 1,
      certificate: { fingerprint: "ab".repeat(32), time_expires: now },
      drain: null,
      time_created: now,
      time_last_seen: now,
      ...more,
    };
    this.all.set(host.id, host);
    return host;
  }

  handlers(): FakeHandlers["http"] {
    const registration = { token: `${"1".repeat(64)}.${"2".repeat(32)}`, time_expires: new Date().toISOString() };
    return {
      listHosts: () => ({ hosts: [...this.all.values()] }),
      getHost: (call) => this.#at(call),
      createHost: (call) => {
        const { name, tags = [] } = call.body as CreateHostInput;
        const unknown = {
          address: null,
          description: null,
          load: null,
          health: null,
          clock_offset_ms: null,
          certificate: null,
          time_last_seen: null,
        };
        return { host: this.add(name, { ...unknown, state: "pending", is_reachable: false, tags }), registration };
      },
      createHostToken: (call) => (this.#at(call), registration),
      updateHost: (call) => this.#set(call, call.body as Partial<UpdateHostBody> as Partial<Host>),
      cordonHost: (call) => this.#set(call, { state: "cordoned", drain: null }),
      uncordonHost: (call) => this.#set(call, { state: "ready", drain: null }),
      drainHost: (call) => {
        const now = new Date().toISOString();
        const { mode = "pause" } = call.body as { mode?: DrainMode };
        return this.#set(call, { state: "draining", drain: { mode, time_started: now, time_done: now, problem: null } });
      },
      previewHostDeletion: (call) => (
        this.#at(call),
        { sandbox_count: 1, sandboxes: [{ id: "i1", state: "running", team_id: "default" }], template_count: 1, templates: ["snapshot-1"] }
      ),
      deleteHost: (call) => {
        const { id, load } = this.#at(call);
        if ((load?.sandbox_count ?? 0) > 0 && call.query.get("force") !== "true")
          throw new FakeError("host_has_sandboxes", `host ${id} has sandboxes`);
        this.all.delete(id);
      },
    };
  }

  #at(call: FakeCall): Host {
    const id = call.parameters["host"] ?? "";
    const host = this.all.get(id);
    if (host === undefined) throw new FakeError("host_not_found", `there is no host "${id}"`);
    return host;
  }

  #set(call: FakeCall, more: Partial<Host>): Host {
    const host = { ...this.#at(call), ...more };
    this.all.set(host.id, host);
    return host;
  }
}
