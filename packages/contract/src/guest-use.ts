import { z } from "zod";

import {
  argsMax,
  commandLengthMax,
  execTimeoutSecDefault,
  execTimeoutSecMax,
  listDepthMax,
  pathLengthMax,
  ptyColsMax,
  ptyRowsMax,
  tagLengthMax,
  userNameLengthMax,
} from "./limits.ts";
import { envsSchema } from "./sandboxes.ts";

/** What runs in a guest and what lies on its disk: exec, terminals, processes, files. */

const noNul = (text: string) => !text.includes("\0");
const pathSchema = z
  .string()
  .min(1)
  .refine((path) => new TextEncoder().encode(path).length <= pathLengthMax, `at most ${pathLengthMax} bytes`)
  .refine(noNul, "must not hold NUL")
  .describe("Absolute, or relative to the user's home; `~` allowed");
const userSchema = z
  .string()
  .min(1)
  .max(userNameLengthMax)
  .refine(noNul, "must not hold NUL")
  .describe("User inside the guest; default `user` where the template has one, else `root`");
const tagSchema = z.string().min(1).max(tagLengthMax).describe("A name of yours for the process; unique among running ones");

const commandFields = {
  cmd: z
    .string()
    .min(1)
    .max(commandLengthMax)
    .refine(noNul, "must not hold NUL")
    .describe("Program, looked up in PATH; use `sh -c` for shell syntax"),
  args: z.array(z.string().max(commandLengthMax).refine(noNul, "must not hold NUL")).max(argsMax).default([]),
  envs: envsSchema.default({}),
  cwd: pathSchema.optional(),
  user: userSchema.optional(),
};
const execTimeoutSchema = z.int().min(0).max(execTimeoutSecMax).describe("The command is killed after this many `s`; 0 = no limit");

export const execBodySchema = z
  .strictObject({
    ...commandFields,
    timeout_sec: execTimeoutSchema
      .default(execTimeoutSecDefault)
      .describe(`Foreground: killed after this many \`s\`. Background commands have no limit`),
    background: z.boolean().default(false).describe("Answer as soon as it started"),
    tag: tagSchema.optional(),
    stdin: z.string().optional().describe("Standard input as text; without it standard input is empty"),
  })
  .meta({ id: "Exec" });
export type ExecBody = z.output<typeof execBodySchema>;
export type ExecInput = z.input<typeof execBodySchema>;

export const execResultSchema = z
  .object({
    sandbox_id: z.string(),
    cmd: z.string(),
    stdout: z.string(),
    stderr: z.string(),
    exit_code: z.int().describe("128 + signal number when a signal ended it"),
    duration_ms: z.int(),
    encoding: z.enum(["utf-8", "base64"]).describe("Of both streams; `base64` when either is not valid UTF-8"),
  })
  .meta({ id: "ExecResult" });
export type ExecResult = z.infer<typeof execResultSchema>;

export const execStartedSchema = z
  .object({ sandbox_id: z.string(), cmd: z.string(), pid: z.int(), tag: z.string() })
  .meta({ id: "ExecStarted" });
export type ExecStarted = z.infer<typeof execStartedSchema>;

/**
 * `exec/stream`. The client's first message is `start`; then come output messages and one `exit` or `error`.
 * With `encoding: "base64"` every `data` is base64, byte-exact; the default is text, where bytes that are not UTF-8 are replaced.
 */
export const streamEncodingSchema = z.enum(["utf-8", "base64"]).default("utf-8");
export const execStreamClientSchema = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("start"),
    ...commandFields,
    timeout_sec: execTimeoutSchema.default(0),
    tag: tagSchema.optional(),
    stdin: z.boolean().default(false).describe("Whether `stdin` messages follow; otherwise standard input is empty"),
    encoding: streamEncodingSchema,
  }),
  z.strictObject({ type: z.literal("stdin"), data: z.string().describe("In the chosen encoding") }),
  z.strictObject({ type: z.literal("stdin_close") }),
  /** SIGTERM to the process group, SIGKILL after 5 s */
  z.strictObject({ type: z.literal("stop") }),
  z.strictObject({ type: z.literal("signal"), signal: z.enum(["SIGTERM", "SIGKILL"]) }),
]);
export type ExecStreamClientMessage = z.input<typeof execStreamClientSchema>;
export const execStreamServerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("start"), pid: z.int(), tag: z.string() }),
  z.object({ type: z.literal("stdout"), data: z.string() }),
  z.object({ type: z.literal("stderr"), data: z.string() }),
  z.object({ type: z.literal("exit"), exit_code: z.int() }),
  z.object({ type: z.literal("error"), code: z.string(), data: z.string() }),
]);
export type ExecStreamServerMessage = z.infer<typeof execStreamServerSchema>;

/** `processes/{selector}/stream`: optional first message with the encoding is not needed; it is a query parameter. */
export const attachQuerySchema = z.strictObject({ encoding: streamEncodingSchema });

const sizeFields = { cols: z.int().min(1).max(ptyColsMax).default(80), rows: z.int().min(1).max(ptyRowsMax).default(24) };
/** `pty`. First message `start` or `connect`; all `data` is base64. Closing the socket leaves the process alive. */
export const ptyClientSchema = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("start"),
    ...commandFields,
    cmd: commandFields.cmd.default("/bin/bash"),
    ...sizeFields,
    tag: tagSchema.optional(),
  }),
  z.strictObject({ type: z.literal("connect"), tag: tagSchema }),
  z.strictObject({ type: z.literal("input"), data: z.base64() }),
  z.strictObject({ type: z.literal("resize"), cols: sizeFields.cols, rows: sizeFields.rows }),
  z.strictObject({ type: z.literal("kill") }),
]);
export type PtyClientMessage = z.input<typeof ptyClientSchema>;
export const ptyServerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("started"), tag: z.string(), pid: z.int() }),
  z.object({ type: z.literal("output"), data: z.base64() }),
  z.object({ type: z.literal("exit"), exit_code: z.int() }),
  z.object({ type: z.literal("error"), code: z.string(), data: z.string(), fatal: z.boolean() }),
  z.object({ type: z.literal("ping") }),
]);
export type PtyServerMessage = z.infer<typeof ptyServerSchema>;

export const processSchema = z
  .object({ pid: z.int(), tag: z.string().nullable(), cmd: z.string(), args: z.array(z.string()) })
  .meta({ id: "Process" });
export type Process = z.infer<typeof processSchema>;
export const processListSchema = z.object({ processes: z.array(processSchema) }).meta({ id: "ProcessList" });
/** A pid, or a tag when it is not all digits. */
export const processSelectorSchema = z.string().min(1).max(tagLengthMax);
export const signalQuerySchema = z.strictObject({
  signal: z.enum(["SIGKILL", "SIGTERM"]).default("SIGKILL").describe("Sent to the whole process group"),
});

export const fileTypes = ["file", "directory", "symlink", "unknown"] as const;
export const fileEntrySchema = z
  .object({
    name: z.string(),
    path: z.string(),
    type: z.enum(fileTypes).describe("Of the target, where it is a symbolic link"),
    size: z.number().describe("In `bytes`"),
    mode: z.int().describe("Permission bits"),
    permissions: z.string().describe("As `ls -l` writes them"),
    owner: z.string(),
    group: z.string(),
    modified_at: z.int().describe("Unix `s`"),
    symlink_target: z.string().nullable(),
    metadata: z.record(z.string(), z.string()),
  })
  .meta({ id: "FileEntry" });
export type FileEntry = z.infer<typeof fileEntrySchema>;

export const pathQuerySchema = z.strictObject({ path: pathSchema, user: userSchema.optional() });
export const pathBodySchema = z.strictObject({ path: pathSchema, user: userSchema.optional() }).meta({ id: "Path" });
export const listFilesBodySchema = z
  .strictObject({ path: pathSchema, depth: z.int().min(1).max(listDepthMax).default(1), user: userSchema.optional() })
  .meta({ id: "ListFiles" });
export const moveFileBodySchema = z
  .strictObject({ source: pathSchema, destination: pathSchema, user: userSchema.optional() })
  .meta({ id: "MoveFile" });
export const fileEntryAnswerSchema = z.object({ entry: fileEntrySchema }).meta({ id: "FileEntryAnswer" });
export const fileListSchema = z.object({ entries: z.array(fileEntrySchema) }).meta({ id: "FileList" });

export const watchQuerySchema = z.strictObject({
  path: pathSchema,
  user: userSchema.optional(),
  recursive: z.enum(["true", "false"]).default("false"),
});
/** `files/watch` over WebSocket: `start` once the watch is in place, then events until the socket closes. */
export const watchServerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("start") }),
  z.object({
    type: z.literal("event"),
    event: z.enum(["create", "write", "remove", "rename", "chmod"]),
    name: z.string().describe("Relative to the watched folder"),
  }),
  z.object({ type: z.literal("error"), code: z.string(), data: z.string() }),
]);
export type WatchServerMessage = z.infer<typeof watchServerSchema>;
