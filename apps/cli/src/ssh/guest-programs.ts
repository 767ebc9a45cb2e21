import { RoostError, type ExecStream, type SandboxHandle } from "@roost/sdk";

/** Who a program runs as, and with which environment. */
export interface ProgramSetting {
  readonly user: string | undefined;
  readonly envs: Readonly<Record<string, string>>;
}

export interface Program {
  readonly cmd: string;
  readonly args: string[];
}

/** The user's own shell, as at a login. */
export const loginShell: Program = { cmd: "/bin/sh", args: ["-c", 'exec "${SHELL:-/bin/sh}" -l'] };

/** A command line for the user's own shell, as OpenSSH's server runs it. */
export function shellCommand(command: string): Program {
  return { cmd: "/bin/sh", args: ["-c", 'exec "${SHELL:-/bin/sh}" -c "$0"', command] };
}

/** OpenSSH's own SFTP server; on the agent disk, so that every template has it. */
const sftpServer: Program = { cmd: "/run/roost/agent/bin/sftp-server", args: ["-e"] };
/** The template's, for sandboxes whose agent disk is older than that. */
const sftpServerOfTemplate: Program = {
  cmd: "/bin/sh",
  args: [
    "-c",
    `for server in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server; do
  [ -x "$server" ] && exec "$server" -e
done
echo "this sandbox has no SFTP server" >&2
exit 127`,
  ],
};

/** RFC 4254, 6.9: signals that a client may name. */
const signalNames = new Set(["ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"]);

export async function startSftpServer(sandbox: SandboxHandle, setting: ProgramSetting, signal: AbortSignal): Promise<ExecStream> {
  const start = async ({ cmd, args }: Program) => sandbox.execStream(cmd, { ...setting, args, stdin: true, signal });
  try {
    return await start(sftpServer);
  } catch (error) {
    if (error instanceof RoostError && error.is("request_invalid")) return start(sftpServerOfTemplate);
    throw error;
  }
}

/** Sends a signal to a program and all that it started in its group; what it names is checked first. */
export async function sendSignal(
  sandbox: SandboxHandle,
  pid: number,
  name: string,
  user: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (!signalNames.has(name)) return;
  // One that has ended is no failure: it is what the sender wants of most signals.
  const script = 'kill -s "$0" -- "-$1" 2>/dev/null || true';
  await sandbox.exec("/bin/sh", { args: ["-c", script, name, String(pid)], user, signal });
}
