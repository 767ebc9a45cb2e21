import type { AuditRule, NotAudited } from "@roost/contract";

import type { E2bRouteId } from "./route-table.ts";

const ofSandbox = (action: AuditRule["action"]): AuditRule => ({ action, kind: "sandbox", param: "sandboxID" });
const ofTemplate = (action: AuditRule["action"]): AuditRule => ({ action, kind: "template", param: "templateID" });
const newBuild: AuditRule = { action: "build.create", kind: "build", field: "buildID" };
const created: AuditRule = { action: "sandbox.create", kind: "sandbox", field: "sandboxID" };

/** What requests to E2B's routes leave in the audit log; every one that changes something is here, but for those that are refused. */
const rules: { readonly [Id in E2bRouteId]?: AuditRule | NotAudited } = {
  createSandbox: created,
  createSandboxV2: created,
  killSandbox: ofSandbox("sandbox.delete"),
  connectSandbox: ofSandbox("sandbox.resume"),
  connectSandboxV2: ofSandbox("sandbox.resume"),
  resumeSandbox: ofSandbox("sandbox.resume"),
  pauseSandbox: ofSandbox("sandbox.pause"),
  setSandboxTimeout: ofSandbox("sandbox.update"),
  refreshSandbox: { why: "clients send it every few seconds to keep their sandboxes" },
  forkSandbox: ofSandbox("sandbox.fork"),
  setSandboxNetwork: ofSandbox("sandbox.update"),
  createSnapshot: { action: "snapshot.create", kind: "snapshot", field: "snapshotID" },
  deleteTemplate: ofTemplate("template.delete"),
  requestBuild: newBuild,
  startBuild: { action: "build.create", kind: "build", param: "buildID" },
  updateTemplate: ofTemplate("template.update"),
  updateTemplateV2: ofTemplate("template.update"),
  assignTemplateTags: { action: "template.update", kind: "template", field: "templateID" },
  removeTemplateTags: { action: "template.update", kind: "template", field: "templateID" },
  putBuildFiles: { why: "files of a build that is audited itself" },
};

export const e2bAuditRules: Readonly<Record<string, AuditRule | NotAudited | undefined>> = rules;
