export { RoostClient, type EventOptions, type ListOptions, type Sandboxes } from "./client.ts";
export type { RequestOptions, RoostClientOptions } from "./connection.ts";
export { clientErrorCodes, RoostError, type ClientErrorCode, type RoostErrorCode, type RoostErrorOptions } from "./errors.ts";
export { ExecStream, type ExecEvent } from "./exec-stream.ts";
export { FileWatch, type FileChange } from "./file-watch.ts";
export { Files, type FileData, type FileDownload, type FileOptions, type ReadOptions, type WriteOptions } from "./files.ts";
export { Processes } from "./processes.ts";
export { PtySession, type PtyEvent } from "./pty-session.ts";
export {
  SandboxHandle,
  type ExecOptions,
  type ExecStreamOptions,
  type ForkOptions,
  type PauseOptions,
  type PtyOptions,
  type ResumeOptions,
} from "./sandbox-handle.ts";
export { Snapshots, type CreateSnapshotOptions } from "./snapshots.ts";
export type {
  Checkpoint,
  CreateSandboxInput,
  ErrorCode,
  Event,
  EventKind,
  ExecResult,
  ExecStarted,
  FileEntry,
  ForkResult,
  Generation,
  Host,
  Metrics,
  MetricsRange,
  Process,
  Sandbox,
  SandboxState,
  Snapshot,
} from "@roost/contract";
