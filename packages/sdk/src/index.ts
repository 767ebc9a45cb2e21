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
export { BuildFailedError } from "./templates/build-failed-error.ts";
export { Builds, type BuildEvent, type BuildLogOptions, type FollowOptions, type ListBuildsOptions } from "./templates/builds.ts";
export { DockerfileError, type DockerfileNote, type Place } from "./templates/dockerfile/dockerfile-error.ts";
export type { LocalRecipe, LocalStep } from "./templates/local-recipe.ts";
export type {
  BuildSource,
  DockerfileSource,
  ImageArchiveSource,
  PreparedBuild,
  RecipeFileSource,
  StepOrigin,
} from "./templates/prepare.ts";
export type { FileProgress } from "./templates/file-progress.ts";
export { Templates, type BuildOptions } from "./templates/templates.ts";
export type {
  Build,
  BuildLogLine,
  BuildState,
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
  RegistryCredentials,
  Sandbox,
  SandboxState,
  Snapshot,
  Template,
  TemplateDetail,
} from "@roost/contract";
