import type { AuditEntryView, AuditVerification } from "@roost/contract";

import type { FakeHandlers } from "./fake-call.ts";

/** An audit log and usage as a test sets them. */
export class LocalBooks {
  /** Newest first */
  entries: AuditEntryView[] = [];
  /** Answers to looks at the chain, in turn */
  verifications: AuditVerification[] = [];
  /** Queries that came, by endpoint */
  readonly asked: { readonly endpoint: string; readonly query: Readonly<Record<string, string>> }[] = [];

  handlers(): FakeHandlers["http"] {
    return {
      listAudit: (call) => {
        const query = Object.fromEntries(call.query);
        this.asked.push({ endpoint: "listAudit", query });
        const limit = Number(query["limit"] ?? 100);
        const start = Number(query["cursor"] ?? 0);
        const next = start + limit;
        return { entries: this.entries.slice(start, next), next_cursor: next < this.entries.length ? String(next) : null };
      },
      verifyAudit: (call) => {
        this.asked.push({ endpoint: "verifyAudit", query: Object.fromEntries(call.query) });
        return this.verifications.shift();
      },
      getUsage: (call) => {
        this.asked.push({ endpoint: "getUsage", query: Object.fromEntries(call.query) });
        const amounts = { sandbox_seconds: 7_200, vcpu_seconds: 14_400, memory_mib_seconds: 3_600 * 1_024, disk_mib_seconds: 0 };
        return {
          from: "2026-03-01T00:00:00.000Z",
          to: "2026-03-03T00:00:00.000Z",
          group: call.query.get("group") ?? "day",
          total: amounts,
          rows: [{ key: "2026-03-01", ...amounts }],
          is_complete: true,
        };
      },
      getStats: (call) => {
        this.asked.push({ endpoint: "getStats", query: Object.fromEntries(call.query) });
        const load = { running: 2, vcpus: 4, memory_mb: 1_024 };
        return { range: "1h", now: { ...load, paused: 3 }, peaks: load, series: [{ time: "2026-03-01T00:00:00.000Z", ...load }] };
      },
    };
  }
}
