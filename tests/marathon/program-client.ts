import { z } from "zod";

/**
 * How a test speaks to `guest-program.py` through nothing but commands run in the guest: each is one `exec`, which needs no connection
 * to outlive it. With bash's own TCP: starting a Python for each would cost an emulated guest half a second.
 */
export interface GuestCommand {
  readonly cmd: string;
  readonly args: readonly string[];
}

/** Starts the program in the background; the command ends when it listens. */
export function startCommand(programPath: string, folder: string, port: number): GuestCommand {
  return { cmd: "python3", args: [programPath, "start", folder, String(port)] };
}

/** `apply SEED COUNT`, `check [cold] [detail]` or `quit`; prints the answer. */
export function askCommand(port: number, command: string): GuestCommand {
  return { cmd: "bash", args: ["-c", `exec 3<>/dev/tcp/127.0.0.1/${port} && printf '%s\\n' "$0" >&3 && cat <&3`, command] };
}

export const appliedSchema = z.strictObject({ applied: z.int(), chain: z.string() });

export const checkedSchema = z.strictObject({
  /** To be compared with `MarathonModel.state()` */
  state: z.record(z.string(), z.unknown()),
  /** What the program found wrong by itself; empty when all is well */
  damage: z.array(z.string()),
  /** What no model predicts: the same `pid` and `instance` mean the same process, or a fork of it */
  observed: z.strictObject({ pid: z.int(), instance: z.string(), unix_ms: z.int() }),
});
export type Checked = z.infer<typeof checkedSchema>;

/** Parses an answer. Throws what the program said when it could not do what it was asked. */
export function parseAnswer<Answer>(schema: z.ZodType<Answer>, output: string): Answer {
  const answer: unknown = JSON.parse(output);
  if (typeof answer === "object" && answer !== null && "error" in answer)
    throw new Error(`the guest program says: ${String(answer.error)}`);
  return schema.parse(answer);
}
