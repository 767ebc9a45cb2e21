import { PlatformError } from "@roost/contract";
import { DeadlineError } from "@roost/kit";

import { findPlatformError } from "../guest/guest-errors.ts";

interface HttpError {
  readonly statusCode?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
}

/** What any thrown thing is to the caller. Only `PlatformError` messages reach users; everything else is `internal`. */
export function toPlatformError(error: unknown): PlatformError {
  const known = findPlatformError(error);
  if (known !== undefined) return known;
  if (error instanceof DeadlineError) return new PlatformError("internal", "this took too long", { cause: error });
  const { statusCode, code } = (typeof error === "object" && error !== null ? error : {}) as HttpError;
  switch (statusCode) {
    case 400:
      return new PlatformError("request_invalid", badRequest(code), { cause: error });
    case 404:
      return new PlatformError("route_not_found", "there is nothing at this path; /docs lists what there is", { cause: error });
    case 413:
      return new PlatformError(
        "request_too_large",
        "the request's body is larger than 1 MiB; files go up with PUT /v1/sandboxes/{id}/files",
        { cause: error },
      );
    case 414:
    case 431:
      return new PlatformError("request_too_large", "the request's path or headers are too large", { cause: error });
    case 415:
      return new PlatformError("media_type_unsupported", "send JSON, with `content-type: application/json`", { cause: error });
    default:
      return new PlatformError("internal", "something went wrong in the control plane; its log says what", { cause: error });
  }
}

function badRequest(code: unknown): string {
  switch (code) {
    case "FST_ERR_CTP_INVALID_JSON_BODY":
      return "the body is not valid JSON";
    case "FST_ERR_CTP_INVALID_CONTENT_LENGTH":
      return "the body is not as long as content-length says";
    case "FST_ERR_BAD_URL":
      return "the path is not valid percent-encoding";
    default:
      return "the body is not valid JSON"; // the JSON parser's own refusals: syntax, `__proto__`
  }
}
