import { getSystemErrorName } from "node:util";

export type LaunchStage = "setup" | "cwd" | "exec";

/** A process that could not be started, with what failed: entering the folder, executing the program, or making it ready. */
export class LaunchError extends Error {
  override readonly name = "LaunchError";
  readonly stage: LaunchStage;
  /** as the kernel says it, such as `ENOENT` */
  readonly code: string;

  constructor(stage: LaunchStage, errno: number) {
    const code = errno === 0 ? "EUNKNOWN" : getSystemErrorName(-errno);
    super(`${stage} failed: ${code}`);
    this.stage = stage;
    this.code = code;
  }
}
