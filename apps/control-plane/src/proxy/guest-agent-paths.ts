/**
 * What of the guest agent the outside may reach; everything else of it (`/init`, `/prepare`, `/logs`, …) is between it and its host. An
 * allow-list, and on the path as it came: what the guest agent would have to decode first is not on it.
 */
const plainPaths: ReadonlySet<string> = new Set(["/health", "/metrics", "/envs", "/files", "/files/compose"]);
const methodPattern = /^\/(?:process\.Process|filesystem\.Filesystem)\/[A-Za-z]{1,64}$/;

export function isPublicGuestAgentPath(target: string): boolean {
  const path = target.split("?", 1)[0] ?? "";
  return plainPaths.has(path) || methodPattern.test(path);
}
