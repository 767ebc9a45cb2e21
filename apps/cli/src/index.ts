export { runCli } from "./run-cli.ts";
export type { Io } from "./io.ts";
export { startPlatform, type Platform } from "./platform/compose.ts";
