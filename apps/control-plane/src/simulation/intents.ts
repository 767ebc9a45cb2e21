import { createHash } from "node:crypto";

import { createSandboxBodySchema, forkSandboxBodySchema, PlatformError, type ErrorCode, type ExpiryAction } from "@roost/contract";

import { KeyTaken, type OperationRequest } from "../operations/operations.ts";
import { noOptions } from "../sandboxes/creates.ts";
import { own, firstTeam } from "../testing/first-team.ts";
import type { Replica } from "./replica.ts";

/** What a client wants of one sandbox. It sends the same request until it has an answer. */
export type Intent =
  | { readonly kind: "create"; readonly key: string; readonly expirySec: number; readonly expiryAction: ExpiryAction }
  | { readonly kind: "fork"; readonly key: string; readonly parentId: string; readonly count: number }
  | { readonly kind: "pause" | "resume" | "checkpoint"; readonly key: string; readonly sandboxId: string }
  | { readonly kind: "rollback"; readonly key: string; readonly sandboxId: string; readonly generation: number }
  | { readonly kind: "extend"; readonly key: string; readonly sandboxId: string; readonly sec: number }
  | { readonly kind: "delete"; readonly sandboxId: string };

/** `made`: acknowledged; the sandboxes that it made, or the one that it is about. `generation`: what a checkpoint made. `until`: the end that an extension gave, `ms` since 1970 */
export type Answer =
  | { readonly made: readonly string[]; readonly generation?: number | undefined; readonly until?: number | undefined }
  | { readonly refused: ErrorCode };

const body = createSandboxBodySchema.parse({ timeout_sec: 0 });
const never = () => new AbortController().signal;
const anyHash = createHash("sha256").update("the same request").digest();

/** Sends it once; undefined: no answer, or one that says to try again. */
export async function send(intent: Intent, replica: Replica): Promise<Answer | undefined> {
  try {
    const answer = await answerOf(intent, replica);
    return replica.life.isDead ? undefined : answer;
  } catch (error) {
    if (replica.life.isDead) return undefined;
    if (!(error instanceof PlatformError)) return undefined; // the connection is gone, or the process is
    const { code, status } = error;
    const mayHelp = status >= 500 || code === "operation_running" || code === "sandbox_busy";
    return mayHelp ? undefined : { refused: code };
  }
}

async function answerOf(intent: Intent, { sandboxes }: Replica): Promise<Answer> {
  const { operations, lifecycle, connects } = sandboxes;
  if (intent.kind === "delete") {
    await sandboxes.delete(own(intent.sandboxId));
    return { made: [intent.sandboxId] };
  }
  if (intent.kind === "extend") {
    const row = await connects.refresh(own(intent.sandboxId), intent.sec);
    return { made: [row.id], until: row.time_expires?.getTime() };
  }
  const request: OperationRequest = { teamId: firstTeam, endpoint: intent.kind, key: { key: intent.key, requestHash: anyHash } };
  const earlier = await operations.earlier(request, never());
  if (earlier !== undefined) return { made: earlier.made.length === 0 ? [earlier.subject_id] : await present(earlier.made, sandboxes) };
  try {
    switch (intent.kind) {
      case "create": {
        const { expirySec, expiryAction } = intent;
        return { made: [(await sandboxes.create(firstTeam, body, never(), { ...noOptions, expirySec, expiryAction }, request)).id] };
      }
      case "fork": {
        const children = await sandboxes.fork(
          own(intent.parentId),
          forkSandboxBodySchema.parse({ count: intent.count }),
          never(),
          undefined,
          request,
        );
        return { made: children.flatMap((child) => ("row" in child ? [child.row.id] : [])) };
      }
      case "pause":
        return { made: [(await lifecycle.pause(own(intent.sandboxId), { memory: true }, request)).id] };
      case "resume":
        return { made: [(await lifecycle.resume(own(intent.sandboxId), { memory: true }, request)).id] };
      case "checkpoint": {
        const { row, generation } = await lifecycle.checkpoint(own(intent.sandboxId), request);
        return { made: [row.id], generation: generation.number };
      }
      case "rollback":
        return { made: [(await lifecycle.rollback(own(intent.sandboxId), intent.generation, request)).id] };
    }
  } catch (error) {
    if (error instanceof KeyTaken) throw new PlatformError("operation_running", "another was faster");
    throw error;
  }
}

/** Children of a fork that came of it. */
async function present(ids: readonly string[], sandboxes: Replica["sandboxes"]): Promise<string[]> {
  const found: string[] = [];
  for (const id of ids) {
    const row = await sandboxes.get(own(id)).catch((error: unknown) => {
      if (error instanceof PlatformError && error.code === "sandbox_not_found") return undefined;
      throw error;
    });
    if (row !== undefined && row.state !== "failed" && row.state !== "stopped" && row.time_delete_requested === null) found.push(id);
  }
  return found;
}
