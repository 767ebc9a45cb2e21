export { RoostClient, type ListOptions, type Sandboxes } from "./client.ts";
export type { RequestOptions, RoostClientOptions } from "./connection.ts";
export { clientErrorCodes, RoostError, type ClientErrorCode, type RoostErrorCode, type RoostErrorOptions } from "./errors.ts";
export { ExecStream, type ExecEvent } from "./exec-stream.ts";
export { FileWatch, type FileChange } from "./file-watch.ts";
export { Files, type FileData, type FileDownload, type FileOptions, type ReadOptions, type WriteOptions } from "./files.ts";
export { Processes } from "./processes.ts";
export { PtySession, type PtyEvent } from "./pty-session.ts";
export { SandboxHandle, type ExecOptions, type ExecStreamOptions, type PtyOptions } from "./sandbox-handle.ts";
export type {
  CreateSandboxInput,
  ErrorCode,
  ExecResult,
  ExecStarted,
  FileEntry,
  Host,
  Metrics,
  MetricsRange,
  Process,
  Sandbox,
  SandboxState,
} from "@roost/contract";
