import type { SnapshotRow } from "../db/snapshots.ts";
import type { HostTemplate } from "../hosts/observed.ts";

/** A template that no build made: a base template or a snapshot. */
export interface OwnTemplate {
  readonly name: string;
  readonly kind: "base" | "snapshot";
  readonly digest: string;
  readonly timeCreated: Date;
  /** null: any, likewise memory */
  readonly vcpus: number | null;
  readonly memoryMib: number | null;
  readonly diskSizeMib: number;
}

/** Both have the columns that say what is on a host. */
export function ownTemplate(kind: OwnTemplate["kind"], template: HostTemplate | SnapshotRow): OwnTemplate {
  return {
    name: template.name,
    kind,
    digest: template.digest,
    timeCreated: template.time_created,
    vcpus: template.vcpus === 0 ? null : template.vcpus,
    memoryMib: template.memory_mib === 0 ? null : template.memory_mib,
    diskSizeMib: template.disk_size_mib,
  };
}
