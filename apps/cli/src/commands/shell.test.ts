import { once } from "node:events";

import { spawn, type IPty } from "@lydell/node-pty";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { TestBundle } from "../testing/bundle.ts";
import { TestCli } from "../testing/test-cli.ts";

let bundle: TestBundle;
let cli: TestCli;
let id: string;
beforeAll(async () => {
  bundle = await TestBundle.build();
});
afterAll(() => bundle[Symbol.asyncDispose]());
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
});
afterEach(async () => {
  for (const terminal of terminals.splice(0)) terminal.end();
  await cli[Symbol.asyncDispose]();
});

const terminals: UserTerminal[] = [];

/** Somebody's terminal with a shell in it, in which `roost` is started: what is left of it afterwards can be seen. */
class UserTerminal {
  readonly #pty: IPty;
  #text = "";
  readonly #exit: Promise<{ exitCode: number }>;

  constructor(args: string, size = { cols: 90, rows: 25 }) {
    const roost = `${JSON.stringify(process.execPath)} ${JSON.stringify(bundle.main)}`;
    const script = `stty -g > before; ${roost} ${args}; echo "code=$?"; stty -g > after; cmp before after && echo same-tty; exec cat`;
    this.#pty = spawn("/bin/sh", ["-c", script], {
      ...size,
      cwd: cli.folder,
      env: { PATH: process.env["PATH"] ?? "", TERM: "xterm-256color", ...cli.environment },
    });
    this.#pty.onData((data) => (this.#text += data));
    this.#exit = new Promise((resolve) => this.#pty.onExit(resolve));
    terminals.push(this);
  }

  type(text: string): void {
    this.#pty.write(text);
  }

  resize(cols: number, rows: number): void {
    this.#pty.resize(cols, rows);
  }

  async sees(expected: string | RegExp): Promise<string> {
    await expect.poll(() => this.#text, { timeout: 15_000, interval: 20 }).toMatch(expected);
    return this.#text;
  }

  end(): void {
    this.#pty.kill("SIGKILL");
  }

  /** The process group in front, which is `roost` while it runs. */
  async interruptRoost(signal: NodeJS.Signals): Promise<void> {
    const { execFile } = await import("node:child_process");
    const child = execFile("pkill", [`-${signal.slice(3)}`, "-P", String(this.#pty.pid), "-f", bundle.main]);
    await once(child, "exit");
  }

  get exited(): Promise<{ exitCode: number }> {
    return this.#exit;
  }
}

test("a terminal: echo, size, resize, control keys, exit code; the own terminal is as before", async () => {
  const terminal = new UserTerminal(`shell ${id} /bin/bash --norc --noprofile`);
  terminal.type("stty size; echo TERM=$TERM\r");
  await terminal.sees("25 90");
  await terminal.sees("TERM=xterm-256color");
  terminal.resize(120, 40);
  await expect
    .poll(
      async () => {
        terminal.type("stty size\r");
        await new Promise((resolve) => setTimeout(resolve, 50));
        return terminal.sees("");
      },
      { timeout: 10_000 },
    )
    .toContain("40 120");
  terminal.type(`sh -c 'trap "echo interrupted-$((1+1))" INT; echo started-$((1+1)); sleep 1000'\r`);
  await terminal.sees("started-2");
  terminal.type("\u0003"); // goes to the program there, not to roost
  await terminal.sees("interrupted-2");
  terminal.type("exit 7\r");
  await terminal.sees("code=7");
  await terminal.sees("same-tty");
});

test("the detach key leaves the process running; the tag finds it again", async () => {
  const first = new UserTerminal(`shell ${id} --tag work /bin/bash --norc --noprofile`);
  first.type("NOTE=remembered; echo ready-$((1+1))\r");
  await first.sees("ready-2");
  first.type("\u001d");
  await first.sees(`come back with: roost shell ${id} --tag work`);
  await first.sees("code=0");
  await first.sees("same-tty");

  const second = new UserTerminal(`shell ${id} --tag work`);
  second.type("echo $NOTE\r");
  await second.sees("remembered");
  second.type("exit\r");
  await second.sees("code=0");
});

test("a lost connection gives the terminal back and says how to return", async () => {
  const terminal = new UserTerminal(`shell ${id} --tag work /bin/bash --norc --noprofile`);
  terminal.type("echo ready-$((1+1))\r");
  await terminal.sees("ready-2");
  cli.api.dropConnections();
  const text = await terminal.sees("code=1");
  expect(text).toContain(`roost shell ${id} --tag work`);
  await terminal.sees("same-tty");
});

test("a signal that ends roost gives the terminal back", async () => {
  const terminal = new UserTerminal(`shell ${id} /bin/bash --norc --noprofile`);
  terminal.type("echo ready-$((1+1))\r");
  await terminal.sees("ready-2");
  await terminal.interruptRoost("SIGTERM");
  await terminal.sees("come back with");
  await terminal.sees("same-tty");
});

test("large output arrives whole", async () => {
  const terminal = new UserTerminal(`shell ${id} /bin/sh -c 'seq 1 20000; echo done-$((1+1)); read wait'`, { cols: 20, rows: 10 });
  const text = await terminal.sees("done-2");
  expect(text.match(/^\d+\r$/gm)?.map(Number)).toEqual(Array.from({ length: 20_000 }, (_, index) => index + 1));
});
