import { PlatformError } from "@roost/contract";

/** How something ended: "none", or the code of the platform error it failed with. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "none",
    (error: unknown) => (error instanceof PlatformError ? error.code : String(error)),
  );
}
