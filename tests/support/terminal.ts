import { spawn } from "@lydell/node-pty";
import { poll } from "@roost/kit";

export interface TerminalOptions {
  readonly environment: NodeJS.ProcessEnv;
  readonly cols?: number;
  readonly rows?: number;
}

/** A person at a terminal: what a program shows, and keys typed into it. */
export function openTerminal(program: string, args: readonly string[], { environment, cols = 100, rows = 30 }: TerminalOptions) {
  const env = Object.fromEntries(Object.entries(environment).filter((entry): entry is [string, string] => entry[1] !== undefined));
  const terminal = spawn(program, [...args], { cols, rows, name: "xterm-256color", env });
  let screen = "";
  let exitCode: number | undefined;
  terminal.onData((data) => {
    screen += data;
  });
  terminal.onExit((exit) => {
    exitCode = exit.exitCode;
  });
  return {
    terminal,
    screen: () => screen,
    shows: (what: RegExp) =>
      poll({ what: `a screen that matches ${what}`, timeoutMs: 60_000, intervalMs: 50 }, () => {
        if (what.test(screen)) return true;
        throw new Error(JSON.stringify(screen.slice(-500)));
      }),
    ends: () => poll({ what: `the end of ${program}`, timeoutMs: 30_000, intervalMs: 50 }, () => exitCode),
    clear: () => {
      screen = "";
    },
  };
}
