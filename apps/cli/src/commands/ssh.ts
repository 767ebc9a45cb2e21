import { spawn } from "node:child_process";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes, UsageError } from "../failure.ts";
import { resolveId } from "../sandbox-reference.ts";
import { hostSuffix, includeInUserConfig, readHostKey, sshConfig, writeSshFiles } from "../ssh/ssh-files.ts";

export interface SshOptions {
  readonly config?: boolean;
  readonly install?: boolean;
  readonly stdio?: boolean;
  readonly user?: string;
  readonly url?: string;
  readonly dir?: string;
}

export async function ssh(
  context: CommandContext,
  name: string | undefined,
  words: readonly string[],
  options: SshOptions,
): Promise<number> {
  if (options.install === true && options.config !== true) throw new UsageError("--install goes with --config");
  if (options.config === true) return configure(context, name, options);
  if (name === undefined) throw new UsageError("which sandbox?", "`roost ls` lists them; `roost ssh --config` is about all");
  const reference = name.endsWith(hostSuffix) ? name.slice(0, -hostSuffix.length) : name;
  if (options.stdio === true) return serve(context, reference, options);
  if (context.isJson) throw new UsageError("ssh is for people and for SSH programs, and has no --json; use `roost exec --json`");
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  return connect(context, id, words, options);
}

/** How SSH programs start this one, with what was said about the platform: they may run in another environment. */
function proxyCommand({ url, dir }: SshOptions): string[] {
  const script = process.argv[1];
  if (script === undefined) throw new CliError("this program does not know its own file");
  const said = [...(url === undefined ? [] : ["--url", url]), ...(dir === undefined ? [] : ["--dir", dir])];
  return [process.execPath, script, "ssh", "--stdio", ...said];
}

async function configure(context: CommandContext, name: string | undefined, options: SshOptions): Promise<number> {
  const { environment } = context.io;
  let host = `*${hostSuffix}`;
  if (name !== undefined) {
    const reference = name.endsWith(hostSuffix) ? name.slice(0, -hostSuffix.length) : name;
    host = `${await resolveId(await context.client(), reference, context.signal)}${hostSuffix}`;
  }
  const settings = { command: proxyCommand(options), host };
  const text = sshConfig(environment, settings);
  if (options.install !== true) {
    await readHostKey(environment); // what is printed names files that must be there
    if (context.isJson) await context.printJson({ host, config: text });
    else await context.print(text.trimEnd());
    return exitCodes.ok;
  }
  if (name !== undefined)
    throw new UsageError(
      "--install is about all sandboxes",
      "print the entry of one with `roost ssh --config ID`, for editors that list hosts",
    );
  const { configPath } = await writeSshFiles(environment, settings);
  const { path, isNew } = await includeInUserConfig(environment, configPath);
  if (context.isJson) await context.printJson({ host, config: text, config_path: configPath, installed_in: path, is_new: isNew });
  else
    await context.print(isNew ? `${path} includes ${configPath}: ssh ID${hostSuffix} works now` : `${path} included ${configPath} already`);
  return exitCodes.ok;
}

/** What ssh starts: an SSH server on standard input and output. */
async function serve(context: CommandContext, reference: string, { user }: SshOptions): Promise<number> {
  const { serveSsh } = await import("../ssh/serve-ssh.ts");
  const { stdioSocket } = await import("../ssh/stdio-socket.ts");
  const client = await context.client();
  const sandbox = client.sandbox(await resolveId(client, reference, context.signal));
  await sandbox.get({ signal: context.signal }); // one that is not there is told before SSH's own messages hide it
  await serveSsh(stdioSocket(context.io), { sandbox, hostKey: await readHostKey(context.io.environment), user });
  return exitCodes.ok;
}

/** The stock client, with our own configuration alone, so that nobody's settings for all hosts get in the way. */
async function connect(context: CommandContext, id: string, words: readonly string[], options: SshOptions): Promise<number> {
  const { environment, cwd } = context.io;
  const host = `${id}${hostSuffix}`;
  const { configPath } = await writeSshFiles(environment, {
    command: proxyCommand(options),
    host: `*${hostSuffix}`,
  });
  const { own, command } = splitWords(words);
  const args = ["-F", configPath, ...(options.user === undefined ? [] : ["-l", options.user]), ...own, host, ...command];
  const child = spawn("ssh", args, { stdio: "inherit", env: environment, cwd });
  // It has this terminal's Ctrl-C itself; other signals are passed on, and its end is ours.
  using _taken = context.interrupts.take((signal) => void (signal === "SIGINT" ? undefined : child.kill(signal)));
  return new Promise<number>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => {
      const isMissing = error.code === "ENOENT";
      reject(
        new CliError(isMissing ? "the OpenSSH client is not installed (there is no program `ssh`)" : `cannot start ssh: ${error.message}`, {
          ...(isMissing ? { hint: "in Debian it is the package openssh-client; `roost shell` and `roost exec` need none" } : {}),
          cause: error,
        }),
      );
    });
    child.once("exit", (code, signal) => resolve(code ?? (signal === "SIGINT" ? exitCodes.interrupted : exitCodes.error)));
  });
}

/** `-L 1:localhost:2 -- make`: options of ssh go before the host, a command behind it. Without a leading `-` all of it is a command. */
function splitWords(words: readonly string[]): { readonly own: readonly string[]; readonly command: readonly string[] } {
  const at = words.indexOf("--");
  if (words[0]?.startsWith("-") !== true) return { own: [], command: words };
  return at === -1 ? { own: words, command: [] } : { own: words.slice(0, at), command: words.slice(at + 1) };
}
