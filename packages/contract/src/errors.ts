import { z } from "zod";

/**
 * Every error a user can see. A code has one HTTP status and says whether the same request may succeed later.
 * 500 is a bug in Roost; 503 means "not now".
 */
export const errorCatalogue = {
  request_invalid: { status: 400, retryable: false },
  path_invalid: { status: 400, retryable: false },
  egress_proxy_invalid: { status: 400, retryable: false },
  address_forbidden: { status: 400, retryable: false },
  template_size_fixed: { status: 400, retryable: false },
  user_unknown: { status: 400, retryable: false },
  token_invalid: { status: 400, retryable: false },
  api_key_invalid: { status: 401, retryable: false },
  registration_token_invalid: { status: 401, retryable: false },
  host_certificate_refused: { status: 401, retryable: false },
  login_failed: { status: 401, retryable: false },
  quota_exceeded: { status: 403, retryable: false },
  origin_forbidden: { status: 403, retryable: false },
  password_wrong: { status: 403, retryable: false },
  user_deactivated: { status: 403, retryable: false },
  signup_closed: { status: 403, retryable: false },
  owner_only: { status: 403, retryable: false },
  scope_missing: { status: 403, retryable: false },
  admin_only: { status: 403, retryable: false },
  session_required: { status: 403, retryable: false },
  route_not_found: { status: 404, retryable: false },
  api_key_not_found: { status: 404, retryable: false },
  team_not_found: { status: 404, retryable: false },
  user_not_found: { status: 404, retryable: false },
  member_not_found: { status: 404, retryable: false },
  invitation_not_found: { status: 404, retryable: false },
  session_not_found: { status: 404, retryable: false },
  provider_unconnected: { status: 404, retryable: false },
  operation_not_found: { status: 404, retryable: false },
  sandbox_not_found: { status: 404, retryable: false },
  template_not_found: { status: 404, retryable: false },
  snapshot_not_found: { status: 404, retryable: false },
  host_not_found: { status: 404, retryable: false },
  build_not_found: { status: 404, retryable: false },
  generation_not_found: { status: 404, retryable: false },
  process_not_found: { status: 404, retryable: false },
  file_not_found: { status: 404, retryable: false },
  channel_not_found: { status: 404, retryable: false },
  delivery_not_found: { status: 404, retryable: false },
  method_not_allowed: { status: 405, retryable: false },
  email_taken: { status: 409, retryable: false },
  member_exists: { status: 409, retryable: false },
  last_owner: { status: 409, retryable: false },
  last_admin: { status: 409, retryable: false },
  last_login_method: { status: 409, retryable: false },
  team_in_use: { status: 409, retryable: false },
  team_limit: { status: 409, retryable: false },
  invitation_limit: { status: 409, retryable: false },
  channel_exists: { status: 409, retryable: false },
  channel_limit: { status: 409, retryable: false },
  channel_changed: { status: 409, retryable: true },
  delivery_ended: { status: 409, retryable: false },
  sandbox_exists: { status: 409, retryable: false },
  sandbox_wrong_state: { status: 409, retryable: false },
  sandbox_changed: { status: 409, retryable: true },
  create_aborted: { status: 409, retryable: false },
  snapshot_exists: { status: 409, retryable: false },
  host_exists: { status: 409, retryable: false },
  host_wrong_state: { status: 409, retryable: false },
  host_has_sandboxes: { status: 409, retryable: false },
  snapshot_in_use: { status: 409, retryable: false },
  template_in_use: { status: 409, retryable: false },
  template_exists: { status: 409, retryable: false },
  operation_running: { status: 409, retryable: true },
  build_wrong_state: { status: 409, retryable: false },
  build_cancelled: { status: 409, retryable: false },
  image_damaged: { status: 409, retryable: false },
  image_incompatible: { status: 409, retryable: false },
  file_exists: { status: 409, retryable: false },
  tag_taken: { status: 409, retryable: false },
  host_deleted: { status: 410, retryable: false },
  request_too_large: { status: 413, retryable: false },
  output_too_large: { status: 413, retryable: false },
  media_type_unsupported: { status: 415, retryable: false },
  range_not_satisfiable: { status: 416, retryable: false },
  sandbox_busy: { status: 429, retryable: true },
  rate_limited: { status: 429, retryable: true },
  internal: { status: 500, retryable: false },
  feature_unsupported: { status: 501, retryable: false },
  idempotency_key_reused: { status: 422, retryable: false },
  image_unusable: { status: 422, retryable: false },
  build_failed: { status: 422, retryable: false },
  guest_unreachable: { status: 502, retryable: true },
  guest_error: { status: 502, retryable: false },
  sandbox_start_failed: { status: 502, retryable: true },
  sandbox_pause_failed: { status: 502, retryable: true },
  sandbox_resume_failed: { status: 502, retryable: true },
  snapshot_failed: { status: 502, retryable: true },
  fork_failed: { status: 502, retryable: true },
  registry_unreachable: { status: 502, retryable: true },
  provider_unavailable: { status: 502, retryable: true },
  host_unreachable: { status: 503, retryable: true },
  host_draining: { status: 503, retryable: true },
  capacity_exhausted: { status: 503, retryable: true },
  operation_interrupted: { status: 503, retryable: true },
  shutting_down: { status: 503, retryable: true },
  exec_timeout: { status: 504, retryable: false },
  guest_disk_full: { status: 507, retryable: false },
  host_disk_full: { status: 507, retryable: true },
} as const satisfies Record<string, { readonly status: number; readonly retryable: boolean }>;

export type ErrorCode = keyof typeof errorCatalogue;
export const errorCodes = Object.keys(errorCatalogue) as [ErrorCode, ...ErrorCode[]];

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorCatalogue, code);
}

export interface PlatformErrorOptions {
  /** For operators and logs, never for users: internals, numbers, paths. */
  readonly detail?: string;
  readonly cause?: unknown;
  /** Seconds after which trying again makes sense; becomes `Retry-After`. */
  readonly retryAfterSec?: number;
}

/** An operating error: its code is from the catalogue, its message is for the user and says what to do. */
export class PlatformError extends Error {
  override readonly name = "PlatformError";
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  readonly retryAfterSec: number | undefined;

  constructor(code: ErrorCode, message: string, options: PlatformErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.detail = options.detail;
    this.retryAfterSec = options.retryAfterSec;
  }

  get status(): number {
    return errorCatalogue[this.code].status;
  }

  toBody(): ErrorBody {
    return { error: { code: this.code, message: this.message } };
  }
}

export const errorBodySchema = z
  .object({ error: z.object({ code: z.enum(errorCodes), message: z.string().describe("For people: what was wrong and what to do") }) })
  .meta({ id: "Error" });
export type ErrorBody = z.infer<typeof errorBodySchema>;
