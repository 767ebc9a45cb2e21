export { Account } from "./account.ts";
export { Administration } from "./administration.ts";
export { ApiKeys } from "./api-keys.ts";
export { Operations } from "./operations.ts";
export { AuditLog, type KnownEntry, type ListAuditOptions } from "./audit.ts";
export { RoostClient, type ListOptions, type Sandboxes, type UsageOptions } from "./client.ts";
export type { RequestOptions, RoostClientOptions } from "./connection.ts";
export { clientErrorCodes, RoostError, type ClientErrorCode, type RoostErrorCode, type RoostErrorOptions } from "./errors.ts";
export { Channels, type ListDeliveriesOptions } from "./channels.ts";
export { Events, type EventOptions, type FollowEventsOptions } from "./events.ts";
export { ExecStream, type ExecEvent } from "./exec-stream.ts";
export { FileWatch, type FileChange } from "./file-watch.ts";
export { Files, type FileData, type FileDownload, type FileOptions, type ReadOptions, type WriteOptions } from "./files.ts";
export { Hosts } from "./hosts.ts";
export { Ports, type SignPortOptions } from "./ports.ts";
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
export { SignIn, type SignInOptions } from "./sign-in.ts";
export { Teams } from "./teams.ts";
export { Tunnel } from "./tunnel.ts";
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
  AdminTeam,
  AdminUser,
  ApiKeyInfo,
  Build,
  BuildLogLine,
  BuildState,
  Channel,
  ChannelKind,
  Checkpoint,
  CreateApiKeyInput,
  CreateChannelInput,
  CreateSandboxInput,
  Delivery,
  CreatedApiKey,
  ErrorCode,
  Event,
  EventGap,
  EventKind,
  ExecResult,
  ExecStarted,
  FileEntry,
  ForkResult,
  Generation,
  CreatedHost,
  CreateHostInput,
  DrainMode,
  Host,
  Invitation,
  Me,
  Member,
  OwnTeam,
  HostDeletion,
  HostToken,
  Metrics,
  MetricsRange,
  Process,
  RegistryCredentials,
  Sandbox,
  SandboxState,
  Scope,
  Session,
  SignedIn,
  SignInMethods,
  Snapshot,
  Template,
  TemplateDetail,
} from "@roost/contract";
